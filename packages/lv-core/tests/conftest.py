"""Fixtures of the tests of lv-core."""

import pytest


@pytest.fixture
def wrong_types(request: pytest.FixtureRequest) -> None:
    """Skips a test of our own message where run-time type checks speak first."""
    if request.config.getoption("jaxtyping_packages", None):
        pytest.skip("run-time type checks refuse the argument before the function sees it")
