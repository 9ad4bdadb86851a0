"""Fixtures and options of every test in the repository."""

import hashlib
import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile(
    "lv",
    max_examples=25,
    deadline=None,  # machines that run tests are shared and slow at times
    derandomize=True,  # a failure on one machine is a failure on all
    database=None,
)
hypothesis.settings.load_profile("lv")

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --lv-data, the same as the environment variable LV_DATA."""
    parser.addoption(
        "--lv-data",
        metavar="FOLDER",
        help="folder with one sub-folder per real data set; default: $LV_DATA",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Passes --lv-data on to whatever looks for data, child processes included."""
    folder = config.getoption("--lv-data")
    if folder is not None:
        os.environ["LV_DATA"] = str(Path(folder).resolve())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with the reason, tests whose data or device this machine lacks."""
    folder = os.environ.get("LV_DATA", "")
    no_data = None
    if not folder:
        no_data = "needs the real data sets: set LV_DATA or pass --lv-data"
    elif not Path(folder).is_dir():
        no_data = f"needs the real data sets: LV_DATA={folder} is no folder"
    for item in items:
        if no_data and item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=no_data))
        if not torch.cuda.is_available() and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def seed_of(name: str) -> int:
    """Returns a 32 bit seed from a test's name, the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seeds torch, NumPy and random from the test's name, so that order does not matter."""
    number = seed_of(request.node.name)
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - for code under test that uses the global state
    random.seed(number)
    return number


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Gives the CPU and, where there is one, the GPU."""
    return torch.device(request.param)


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    """Gives a CPU generator seeded from the test's name."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def wrong_types(request: pytest.FixtureRequest) -> None:
    """Skips a test of our own message where run-time type checks speak first."""
    if request.config.getoption("jaxtyping_packages", None):
        pytest.skip("run-time type checks refuse the argument before the function sees it")
