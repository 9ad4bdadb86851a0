"""The faster route of matrix products: kept only where it is accurate and no slower."""

import math
from collections.abc import Iterator

import pytest
import torch

from lv_core import fast, set_fast_cpu


@pytest.fixture(autouse=True)
def precision() -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    yield before
    torch.set_float32_matmul_precision(before)


def test_what_it_reports_is_what_holds_afterwards(precision) -> None:
    found = set_fast_cpu()
    assert torch.get_float32_matmul_precision() == ("medium" if found.enabled else precision)
    assert found.error < 1e-2  # bfloat16 at worst
    assert found.enabled == (found.error <= 1e-5 and found.speedup >= 1.0)


def test_an_inexact_route_is_refused(precision) -> None:
    found = set_fast_cpu(tolerance=1e-12)  # below the rounding of float32
    assert not found.enabled
    assert math.isnan(found.speedup)
    assert torch.get_float32_matmul_precision() == precision


def test_a_slower_route_is_refused(monkeypatch, precision) -> None:
    seconds = iter([1.0, 2.0])
    monkeypatch.setattr(fast, "_seconds", lambda x, w: next(seconds))
    found = set_fast_cpu(tolerance=0.1)
    assert (found.enabled, found.speedup) == (False, 0.5)
    assert torch.get_float32_matmul_precision() == precision


def test_warns_of_threads_that_wait_actively(monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    with pytest.warns(RuntimeWarning, match="4 threads wait actively"):
        set_fast_cpu()


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "PASSIVE"), ("GOMP_SPINCOUNT", "0")]
)
def test_is_silent_when_threads_wait_passively(monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    set_fast_cpu()  # a warning would be an error here


def test_refuses_a_tolerance_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match=r"tolerance must be positive, got 0\.0"):
        set_fast_cpu(tolerance=0.0)
