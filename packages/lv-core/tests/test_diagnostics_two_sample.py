"""Classifier two-sample tests against the best possible accuracy in closed form."""

import math

import pytest
import torch
from torch import Tensor

from lv_core import stream
from lv_core.diagnostics.two_sample import c2st


def normals(n: int, dim: int, name: str) -> Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=stream(0, name))


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize("classifier", ["quadratic", "mlp"])
def test_the_same_distribution_cannot_be_told_apart(classifier: str) -> None:
    result = c2st(
        normals(300, 2, "x"),
        normals(200, 2, "y"),
        classifier=classifier,  # type: ignore[arg-type]
        generator=stream(0, "folds"),
    )
    assert abs(result.accuracy - 0.5) < 5 * result.error
    assert result.p_value > 0.001
    # Shares near 1/2: half the root of 0.25 (1/300 + 1/200).
    assert result.error == pytest.approx(0.25 * math.sqrt(1 / 300 + 1 / 200), rel=0.1)


@pytest.mark.parametrize("classifier", ["quadratic", "mlp"])
def test_accuracy_between_shifted_normals_is_the_closed_form(classifier: str) -> None:
    shift = torch.tensor([1.0, 1.0]).double()
    result = c2st(
        normals(600, 2, "x"),
        normals(500, 2, "y") + shift,
        classifier=classifier,  # type: ignore[arg-type]
        generator=stream(0, "folds"),
    )
    best = normal_cdf(math.sqrt(2) / 2)
    # A fitted classifier is a little below the best one: 0.02 for the small network.
    assert best - 5 * result.error - 0.02 < result.accuracy < best + 5 * result.error
    assert result.accuracy > 0.5 + 5 * result.error
    assert result.p_value < 1e-6


def test_accuracy_between_opposite_correlations_is_the_closed_form() -> None:
    # Equal margins, correlation 0.8 against -0.8: the sign of the product decides, and is
    # positive with probability 1/2 + asin(0.8)/pi.
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]]).double()
    mirror = torch.tensor([1.0, -1.0]).double()
    x, y = normals(1500, 2, "x") @ root.T, normals(1500, 2, "y") @ root.T * mirror
    result = c2st(x, y, generator=stream(0, "folds"))
    assert abs(result.accuracy - 0.5 - math.asin(0.8) / math.pi) < 5 * result.error + 0.01
    # Wrong control: margins alone tell nothing.
    margin = c2st(x[:, 1:], y[:, 1:], generator=stream(0, "folds"))
    assert abs(margin.accuracy - 0.5) < 5 * margin.error


def test_wrong_noise_scale_is_found() -> None:
    # Langevin without its noise's temperature: variance 0.5 in place of 1, eight coordinates.
    result = c2st(
        normals(500, 8, "x"), math.sqrt(0.5) * normals(500, 8, "y"), generator=stream(0, "folds")
    )
    assert result.accuracy > 0.5 + 5 * result.error


def test_network_sees_what_second_moments_do_not() -> None:
    # Signs +-1 with a little noise, against a normal with the same mean and variance.
    signs = normals(500, 1, "s").sign() * math.sqrt(0.96) + 0.2 * normals(500, 1, "n")
    other = normals(500, 1, "y")
    network = c2st(signs, other, classifier="mlp", generator=stream(0, "folds"))
    assert network.accuracy > 0.7
    assert c2st(signs[:, :], other, generator=stream(0, "folds")).accuracy < network.accuracy - 0.1


def test_separated_sets_are_recognised_and_constant_coordinates_do_no_harm() -> None:
    x = torch.cat((normals(50, 1, "x"), torch.ones(50, 1).double()), dim=1)
    result = c2st(x, x + torch.tensor([100.0, 0.0]), generator=stream(0, "folds"))
    assert result.accuracy == 1.0
    assert result.error == 0.0


@pytest.mark.parametrize("classifier", ["quadratic", "mlp"])
def test_generator_alone_decides(classifier: str) -> None:
    x, y = normals(40, 2, "x"), normals(40, 2, "y")
    before = torch.random.get_rng_state()
    results = [
        c2st(x, y, classifier=classifier, generator=stream(k, "folds"))  # type: ignore[arg-type]
        for k in (0, 0, 1)
    ]
    assert results[0] == results[1] != results[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_network_can_be_fitted_without_grad_mode() -> None:
    x, y = normals(40, 2, "x"), normals(40, 2, "y") + 3.0
    with torch.no_grad():
        assert c2st(x, y, classifier="mlp", generator=stream(0, "")).accuracy > 0.9


@pytest.mark.parametrize("classifier", ["quadratic", "mlp"])
def test_samples_that_are_not_finite_are_refused(classifier: str) -> None:
    x, y = normals(20, 2, "x"), normals(30, 2, "y") + 100
    x[3, 1], y[4, 0], y[7] = math.nan, math.inf, math.nan
    with pytest.raises(ValueError, match=r"got 1 of 20 in x and 2 of 30 in y that hold NaN"):
        c2st(x, y, classifier=classifier)  # type: ignore[arg-type]
    rest = c2st(x[4:], y[8:], classifier=classifier, generator=stream(0, ""))  # type: ignore[arg-type]
    assert rest.accuracy == 1.0


def test_settings_out_of_range_are_refused(wrong_types: None) -> None:
    x = normals(10, 2, "x")
    with pytest.raises(ValueError, match=r"same event shape, got \(10, 2\) and \(10, 3\)"):
        c2st(x, normals(10, 3, "y"))
    with pytest.raises(ValueError, match="got folds 1 for 10 and 10 samples"):
        c2st(x, x, folds=1)
    with pytest.raises(ValueError, match="got folds 5 for 10 and 4 samples"):
        c2st(x, x[:4])
    with pytest.raises(ValueError, match="unknown classifier 'tree'; there are: quadratic, mlp"):
        c2st(x, x, classifier="tree")  # type: ignore[arg-type]
