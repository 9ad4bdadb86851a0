"""Property heads and the transformation of targets."""

import io
import math

import pytest
import torch

from lv_priors import PropertyHead, TargetTransform


def head(**settings) -> PropertyHead:
    return PropertyHead((3, 8, 1), **settings).double()


@pytest.mark.parametrize("precision", [0.5, 10.0])
@pytest.mark.parametrize("output", ["linear", "sigmoid"])
def test_log_prob_integrates_to_one_over_the_transformed_target(precision, output) -> None:
    transform = TargetTransform(mean=-3.0, std=2.5)
    model = head(precision=precision, output=output, transform=transform)
    z = torch.randn(3, dtype=torch.float64)
    y = torch.linspace(-60, 60, 40_001, dtype=torch.float64)
    density = model.log_prob(y, z.expand(len(y), 3)).exp()
    over_y = (density.sum() * (y[1] - y[0])).item()
    assert over_y / 2.5 == pytest.approx(1.0, abs=1e-9)  # dt = dy / std
    assert over_y != pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("precision", [0.5, 10.0])
def test_variance_is_half_the_inverse_precision(precision) -> None:
    model = head(precision=precision)
    z, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    normal = torch.distributions.Normal(model.mean(z), math.sqrt(1 / (2 * precision)))
    torch.testing.assert_close(model.log_prob(y, z), normal.log_prob(y))
    wrong = torch.distributions.Normal(model.mean(z), math.sqrt(1 / precision))
    assert not torch.allclose(model.log_prob(y, z), wrong.log_prob(y))


def test_learning_minimises_lambda_times_the_squared_error() -> None:
    model = head(precision=10.0, transform=TargetTransform(mean=1.0, std=2.0))
    z, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    error = ((y - 1) / 2 - model.mean(z)).square()
    torch.testing.assert_close(model.squared_error(y, z), error)
    torch.testing.assert_close(model(y, z), 10 * error - 0.5 * math.log(10 / math.pi))
    torch.testing.assert_close(model(y, z), -model.log_prob(y, z))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_keeps_batch_axes(batch) -> None:
    z, y = torch.randn(*batch, 3).double(), torch.randn(batch).double()
    model = head()
    assert model.mean(z).shape == model.predict(z).shape == model.log_prob(y, z).shape == batch


def test_predictions_are_in_the_unit_of_the_target() -> None:
    model = head(transform=TargetTransform(mean=100.0, std=5.0))
    z = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(model.predict(z), 100 + 5 * model.mean(z))
    # The prediction is the most probable target.
    best = model.log_prob(model.predict(z), z)
    assert (best > model.log_prob(model.predict(z) + 0.1, z)).all()
    torch.testing.assert_close(best, torch.full((5,), 0.5 * math.log(10 / math.pi)).double())


def test_without_a_transform_targets_are_left_alone() -> None:
    model, z = head(), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(model.predict(z), model.mean(z))


def test_a_sigmoid_keeps_the_mean_between_zero_and_one() -> None:
    z = 100 * torch.randn(50, 3, dtype=torch.float64)
    assert ((head(output="sigmoid").mean(z) - 0.5).abs() <= 0.5).all()
    assert ((head(output="linear").mean(z) - 0.5).abs() > 0.5).any()


def test_saving_a_head_saves_its_transform() -> None:
    model, file = head(transform=TargetTransform(mean=100.0, std=5.0)), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = head()
    other.load_state_dict(torch.load(file, weights_only=True))
    z = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(other.predict(z), model.predict(z))


def test_learning_finds_a_linear_property() -> None:
    z = torch.randn(500, 3, dtype=torch.float64)
    y = 40 + 7 * z[:, 0] - 3 * z[:, 2]
    model = PropertyHead((3, 1), transform=TargetTransform.fit(y)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before = (model.predict(z) - y).abs().max().item()
    for _ in range(200):
        optimizer.zero_grad()
        model(y, z).mean().backward()
        optimizer.step()
    assert before > 5
    assert (model.predict(z) - y).abs().max() < 0.1


@pytest.mark.parametrize("sizes", [(3, 2), (3, 8, 0), ()])
def test_sizes_must_end_in_one(sizes) -> None:
    with pytest.raises(ValueError, match="sizes must end in 1"):
        PropertyHead(sizes)


@pytest.mark.parametrize("precision", [0.0, -1.0, math.nan])
def test_precision_must_be_positive(precision) -> None:
    with pytest.raises(ValueError, match="precision must be positive"):
        head(precision=precision)


def test_transform_is_inverted_exactly() -> None:
    transform, y = TargetTransform(mean=-3.0, std=2.5), torch.randn(7)
    torch.testing.assert_close(transform.invert(transform.apply_to(y)), y)
    torch.testing.assert_close(transform.apply_to(y), (y + 3) / 2.5)


def test_fit_standardises_the_values_it_saw() -> None:
    values = 40 + 7 * torch.rand(100)
    standard = TargetTransform.fit(values).apply_to(values)
    assert standard.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert standard.std().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 0.0, 1e6 / 3])
def test_fit_refuses_values_that_are_all_equal(value, dtype) -> None:
    for n in (1, 3, 10):
        with pytest.raises(ValueError, match="must not all be equal"):
            TargetTransform.fit(torch.full((n,), value, dtype=dtype))


def test_fit_refuses_non_finite_values_and_counts_them() -> None:
    with pytest.raises(ValueError, match="values must be finite, got 2 that are not"):
        TargetTransform.fit(torch.tensor([1.0, math.nan, math.inf, 2.0]))


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (0.0, math.inf), (math.nan, 1.0)]
)
def test_a_transform_without_inverse_is_refused(mean, std) -> None:
    with pytest.raises(ValueError, match="std must be positive and finite"):
        TargetTransform(mean, std)
