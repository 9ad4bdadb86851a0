import pytest
import torch
from torch import nn

from lv_dynamics.emission import ConvEmission, LinearEmission, PerceptronEmission


def modules() -> list[nn.Module]:
    return [
        PerceptronEmission(3, (2, 5)),
        LinearEmission(3, (2, 5), output="sigmoid"),
        ConvEmission(3, channels=2),
    ]


@pytest.mark.parametrize("k", range(3))
def test_any_batch_axes_give_the_shape_of_the_observation(k):
    module = modules()[k]
    z = torch.randn(2, 4, 3)
    assert module(z).shape == (2, 4, *module.obs)
    assert module(z[0, 0]).shape == module.obs
    assert module(z[:0]).shape == (0, 4, *module.obs)


@pytest.mark.parametrize("k", range(3))
def test_an_item_does_not_depend_on_its_batch(k):
    module = modules()[k].double()
    z = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(module(z)[4], module(z[4]), atol=1e-12, rtol=1e-12)
    # Wrong control: batch norm, which the published decoder has, does depend on it.
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    assert not torch.allclose(norm(z)[4], norm(z[3:5])[1])


@pytest.mark.parametrize("k", range(3))
def test_double_stays_double(k):
    module = modules()[k].double()
    assert module(torch.randn(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_the_linear_emission_is_the_map_of_its_weights():
    module = LinearEmission(3, (2,)).double()
    z = torch.randn(7, 3, dtype=torch.float64)
    weight, bias = module.network[0].weight, module.network[0].bias
    assert len(module.network) == 1
    torch.testing.assert_close(module(z), z @ weight.T + bias)


def test_the_image_sizes_are_those_of_the_published_decoder():
    module = ConvEmission(5, channels=16)
    sizes, x = [], module.start(torch.randn(1, 5)).reshape(1, 64, 4, 4)
    for layer in module.network:
        x = layer(x)
        if isinstance(layer, nn.ConvTranspose2d):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(128, 6, 6), (64, 13, 13), (32, 28, 28), (1, 28, 28)]
    assert not any("Norm" in type(layer).__name__ for layer in module.modules())


def test_a_sigmoid_keeps_pixels_between_zero_and_one():
    z = 30 * torch.randn(16, 3)
    bounded = ConvEmission(3, (1, 28, 28), channels=1)(z)
    assert bounded.shape == (16, 1, 28, 28)
    assert bounded.min() >= 0
    assert bounded.max() <= 1
    free = ConvEmission(3, channels=1, output="linear")
    assert free(z).min() < 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvEmission(3, (32, 32)), r"obs must be \(28, 28\).*got \(32, 32\)"),
        (lambda: ConvEmission(3, (2, 28, 28)), r"got \(2, 28, 28\)"),
        (lambda: ConvEmission(3, channels=0), "channels must be positive, got 0"),
        (lambda: PerceptronEmission(0, (2,)), "width must be positive, got 0"),
        (lambda: PerceptronEmission(2, ()), r"obs must be one or more positive lengths, got \(\)"),
        (lambda: PerceptronEmission(2, (0,)), r"got \(0,\)"),
    ],
)
def test_refuses_what_makes_no_emission(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_unknown_names(wrong_types):
    with pytest.raises(ValueError, match="unknown output 'tanh'"):
        LinearEmission(2, (1,), output="tanh")
    with pytest.raises(ValueError, match="unknown activation 'sine'"):
        PerceptronEmission(2, (1,), activation="sine")


@pytest.mark.parametrize("k", range(3))
def test_refuses_latents_of_another_width(k):
    with pytest.raises(ValueError, match=r"latent must end in the 3 numbers.*\(4, 2\)"):
        modules()[k](torch.zeros(4, 2))
