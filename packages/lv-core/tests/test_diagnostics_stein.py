"""The kernelised Stein discrepancy of normal samples against its closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn

from lv_core import stream
from lv_core.diagnostics.stein import ksd

DIM, H = 3, 1.3


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.flatten(1).square().sum(-1)


def normals(n: int, *event: int, name: str = "samples") -> Tensor:
    return torch.randn(n, *event, dtype=torch.float64, generator=stream(0, name))


def rbf_mean(variance: float) -> float:
    """Returns E k(x, y) for independent x, y ~ N(0, variance I) and the RBF kernel."""
    return float((1 + 2 * variance / H**2) ** (-DIM / 2))


def test_discrepancy_of_shifted_samples_is_the_closed_form() -> None:
    # The scores differ by the constant shift m: squared discrepancy |m|^2 E k.
    shift = torch.tensor([0.6, -0.4, 0.2]).double()
    result = ksd(normals(3000, DIM) + shift, normal_density, kernel="rbf", bandwidth=H)
    exact = shift.square().sum().item() * rbf_mean(1.0)
    assert abs(result.u_statistic.item() - exact) < 5 * result.error.item()
    assert result.error.item() < 0.1 * exact
    assert result.u_statistic > 5 * result.error  # a wrong sampler is found
    assert result.bandwidth == H


def test_discrepancy_of_rescaled_samples_is_the_closed_form() -> None:
    # The scores differ by (1 - 1/v) x; with r = x - y, x.y = (|x + y|^2 - |r|^2) / 4.
    v = 2.25
    result = ksd(1.5 * normals(3000, DIM), normal_density, kernel="rbf", bandwidth=H)
    inside = 1 / (1 / (2 * v) + 1 / H**2)
    exact = (1 - 1 / v) ** 2 * DIM * (2 * v - inside) / 4 * rbf_mean(v)
    assert abs(result.u_statistic.item() - exact) < 5 * result.error.item()
    assert result.u_statistic > 5 * result.error


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_p_value_accepts_the_truth_and_finds_wrong_noise(kernel: str) -> None:
    samples = normals(400, DIM)
    right = ksd(samples, normal_density, kernel=kernel, bootstraps=199, generator=stream(0, "b"))
    # Langevin with the noise of temperature 0.5 in place of 1.
    cold = ksd(
        samples * math.sqrt(0.5),
        normal_density,
        kernel=kernel,
        bootstraps=199,
        generator=stream(0, "b"),
    )
    assert right.p_value > 0.05
    assert cold.p_value == pytest.approx(1 / 200)
    assert right.v_statistic > 0
    assert abs(right.u_statistic) < 0.2 * cold.u_statistic


def test_u_statistic_is_unbiased_under_the_truth_and_v_is_not() -> None:
    u, v = [], []
    for k in range(200):
        result = ksd(normals(30, 2, name=f"{k}"), normal_density, bandwidth=1.0)
        u.append(result.u_statistic)
        v.append(result.v_statistic)
    us, vs = torch.stack(u), torch.stack(v)
    assert us.mean().abs() < 5 * us.std() / math.sqrt(200)
    assert vs.mean() > 5 * vs.std() / math.sqrt(200)  # wrong control: the diagonal counted


def test_p_values_are_uniform_under_the_truth() -> None:
    p = torch.stack(
        [
            ksd(
                normals(60, 2, name=f"p{k}"),
                normal_density,
                bootstraps=99,
                generator=stream(k, "b"),
            ).p_value
            for k in range(200)
        ]
    )
    # 200 p-values: mean 1/2 with standard error 0.289/sqrt(200) = 0.0204.
    assert abs(p.mean().item() - 0.5) < 5 * 0.0204
    assert 0.05 < (p < 0.2).double().mean().item() < 0.35  # 0.2, standard error 0.028


def test_bootstrap_allows_for_correlated_draws() -> None:
    eps, phi = normals(400, 24), 0.95
    rows = [eps[0]]
    for row in eps[1:]:
        rows.append(phi * rows[-1] + math.sqrt(1 - phi**2) * row)
    chains = torch.stack(rows)[..., None]

    def refused(change: float) -> float:
        found = [
            ksd(
                chains[:, k], normal_density, bootstraps=99, change=change, generator=stream(k, "")
            )
            for k in range(24)
        ]
        return sum(result.p_value.item() < 0.05 for result in found) / 24

    # A correct chain: independent signs refuse it nearly always, slow signs seldom.
    assert refused(0.5) > 0.6
    assert refused(0.02) < 0.3


def test_blocks_of_rows_give_the_whole_matrix() -> None:
    x = normals(600, 2)
    d = (x[:, None] - x).square().sum(-1)
    phi, first, second = (1 + d) ** -0.5, -0.5 * (1 + d) ** -1.5, 0.75 * (1 + d) ** -2.5
    scores = -(x @ x.T)
    gap = ((x[:, None] - x) * (-x + x[:, None])).sum(-1)
    matrix = -scores * phi + 2 * first * gap - 4 * first - 4 * d * second
    result = ksd(x, normal_density, bandwidth=1.0)
    torch.testing.assert_close(result.v_statistic, matrix.mean())
    off = (matrix.sum() - matrix.trace()) / (600 * 599)
    torch.testing.assert_close(result.u_statistic, off)


def test_any_event_shape_and_parameters_stay_untouched() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

        def forward(self, u: Tensor) -> Tensor:
            return -0.5 * self.scale * u.flatten(1).square().sum(-1)

    target = Scaled()
    x = normals(50, 2, 3)
    assert torch.equal(ksd(x, target).u_statistic, ksd(x.flatten(1), target).u_statistic)
    assert target.scale.grad is None
    assert math.isnan(ksd(x, target).p_value)
    assert ksd(x.float(), normal_density).u_statistic.dtype == torch.float32


@pytest.mark.parametrize("bandwidth", [None, 1.0])
def test_samples_that_are_not_finite_are_refused(bandwidth: float | None) -> None:
    x = normals(20, 2)
    x[3, 1], x[5] = math.nan, math.inf
    with pytest.raises(ValueError, match="samples must be finite, got 2 of 20 that hold NaN"):
        ksd(x, normal_density, bandwidth=bandwidth)


def test_settings_out_of_range_are_refused(wrong_types: None) -> None:
    x = normals(5, 2)
    with pytest.raises(ValueError, match=r"samples must have shape .* got \(1, 2\)"):
        ksd(x[:1], normal_density)
    with pytest.raises(ValueError, match="unknown kernel 'cosine'; there are: imq, rbf"):
        ksd(x, normal_density, kernel="cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bandwidth must be positive or None, got 0"):
        ksd(x, normal_density, bandwidth=0.0)
    with pytest.raises(ValueError, match="bootstraps must not be negative, got -1"):
        ksd(x, normal_density, bootstraps=-1)
    with pytest.raises(ValueError, match=r"change must lie in \(0, 0.5\], got 0.7"):
        ksd(x, normal_density, change=0.7)
    with pytest.raises(ValueError, match="most samples coincide: give a bandwidth"):
        ksd(torch.zeros(5, 2), normal_density)
