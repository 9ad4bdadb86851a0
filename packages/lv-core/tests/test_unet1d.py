"""The one-dimensional U-Net: its size, its wiring and its pieces."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lv_core.nn.unet1d import (
    UNet1d,
    _Block,
    _ChannelNorm,
    _FullAttention,
    _LinearAttention,
    _StandardisedConv,
)

SMALL = {"width": 8, "multipliers": (1, 2), "groups": 4, "heads": 2, "head_width": 4}


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("init", ["default", "kaiming"])
def test_has_the_parameters_of_both_papers(init) -> None:
    # Both specifications counted the official network: 990,945 for plans, 0.991 M for molecules.
    assert size(UNet1d(init=init)) == 990_945


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"attention": "middle"}, 801_425),
        ({"attention": "none"}, 735_633),
        ({"multipliers": (1, 2), "attention": "none"}, 51_953),
        ({"width": 8, "multipliers": (1, 2), "attention": "none"}, 13_433),
    ],
)
def test_cheap_variants_have_the_sizes_that_are_documented(settings, expected) -> None:
    assert size(UNet1d(**settings)) == expected


def test_levels_halve_the_length_and_see_the_features_of_their_length() -> None:
    network, seen = UNet1d(attention="none"), []
    for module in network.modules():
        if isinstance(module, _Block):
            module.register_forward_hook(
                lambda m, args, out: seen.append((args[0].shape[1], *out.shape[1:]))
            )
    network(torch.randn(2, 64))
    down = [(16, 16, 64)] * 2 + [(16, 16, 32)] * 2 + [(32, 32, 16)] * 2 + [(64, 64, 8)] * 2
    up = [(192, 128, 8)] * 2 + [(96, 64, 16)] * 2 + [(48, 32, 32)] * 2 + [(32, 16, 64)] * 2
    assert seen == [*down, (128, 128, 8), (128, 128, 8), *up, (32, 16, 64)]


def test_every_feature_kept_on_the_way_down_reaches_the_output() -> None:
    network = UNet1d(**SMALL, attention="none")
    network(torch.randn(2, 16)).sum().backward()
    # Each half of an input of the way up, and of the last block, has its own weights.
    for block in [*(b for level in network.up for b in (level.one, level.two)), network.join]:
        assert bool((block.shortcut.weight.grad.abs().sum(dim=(0, 2)) > 0).all())


@pytest.mark.parametrize("attention", ["all", "middle", "none"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_keeps_the_shape_for_any_batch(attention, batch) -> None:
    network = UNet1d(**SMALL, attention=attention).double()
    x = torch.randn(*batch, 16, dtype=torch.float64)
    out = network(x)
    assert out.shape == x.shape
    assert out.dtype == torch.float64
    torch.testing.assert_close(network(x.reshape(-1, 16)).reshape(x.shape), out)


def test_maps_every_signal_on_its_own() -> None:
    network, x = UNet1d(**SMALL), torch.randn(4, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(network(x)[1].sum(), x)
    assert bool((grad[[0, 2, 3]] == 0).all())
    assert bool((grad[1] != 0).all())  # attention reaches all positions


def test_without_attention_far_positions_do_not_meet() -> None:
    x = torch.zeros(1, 512, requires_grad=True)
    shifted = torch.randn(1, 512, requires_grad=True)

    def reach(attention: str, point: torch.Tensor) -> torch.Tensor:
        network = UNet1d(**SMALL, attention=attention)
        for module in network.modules():  # group norm averages over positions
            if isinstance(module, _Block):
                module.body[1], module.body[4] = nn.Identity(), nn.Identity()
        return torch.autograd.grad(network(point)[0, 0], point)[0][0, 256:].abs().max()

    assert reach("none", x) == 0
    assert reach("middle", shifted) > 0
    assert reach("all", shifted) > 0


@pytest.mark.parametrize("length", [0, 4, 12, 255])
def test_a_length_that_cannot_be_halved_is_refused(length) -> None:
    message = rf"divisible by 8 .*4 levels but the last\), got shape \(2, {length}\): pad"
    with pytest.raises(ValueError, match=message):
        UNet1d()(torch.zeros(2, length))


def test_a_single_level_takes_any_length() -> None:
    assert UNet1d(8, (1,), groups=2)(torch.zeros(2, 7)).shape == (2, 7)


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"multipliers": ()}, {"heads": 0}, {"groups": 0}]
)
def test_settings_that_make_no_network_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="must be positive, got width="):
        UNet1d(**{**SMALL, **settings})


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups must divide .* groups=8 for channels \(12, 12"):
        UNet1d(12)


def test_residual_starts_as_the_identity_and_can_leave_it() -> None:
    network, x = UNet1d(**SMALL, residual=True, init="kaiming"), torch.randn(3, 16)
    assert torch.equal(network(x), x)
    assert not torch.allclose(UNet1d(**SMALL)(x), x, atol=0.1)  # control: the papers' network
    network(x).square().sum().backward()
    assert network.head.weight.grad.abs().min() > 0


def test_kaiming_starts_have_unit_gain_and_no_bias() -> None:
    def ratio(network: UNet1d) -> float:
        weight = network.middle[0].body[0].weight  # 128 x 128 x 3
        return (weight.std() * (128 * 3) ** 0.5).item()

    torch.manual_seed(0)
    unit, default = UNet1d(init="kaiming"), UNet1d()
    # 49,152 uniform entries: standard error of the ratio sqrt(0.8 / (4 n)) = 0.2 %.
    assert abs(ratio(unit) - 1) < 5 * 0.002
    assert abs(ratio(default) - 3**-0.5) < 5 * 0.002  # torch: bound fan_in^-1/2
    biases = [m.bias for m in unit.modules() if isinstance(m, nn.Conv1d) and m.bias is not None]
    assert all(bool((bias == 0).all()) for bias in biases)
    assert not any(bool((m.bias == 0).all()) for m in (default.stem, default.head))


def test_standardised_filters_forget_shift_and_scale() -> None:
    conv, x = _StandardisedConv(4, 6, 3, padding=1).double(), torch.randn(2, 4, 9).double()
    w = conv.weight.detach().reshape(6, -1)
    standard = (w - w.mean(1, keepdim=True)) / (w.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = functional.conv1d(x, standard.reshape(6, 4, 3), conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected)
    before, plain_before = conv(x), nn.Conv1d.forward(conv, x)
    with torch.no_grad():
        conv.weight.mul_(3.0).add_(0.5)
    # Up to the 1e-5 under the root, against a variance of about 1/36.
    torch.testing.assert_close(conv(x), before, rtol=1e-3, atol=1e-3)
    assert (nn.Conv1d.forward(conv, x) - plain_before).abs().max() > 0.1  # control


def test_standardising_can_be_switched_off() -> None:
    kinds = {type(_Block(4, 4, 2, on).body[0]) for on in (True, False)}
    assert kinds == {_StandardisedConv, nn.Conv1d}
    network = UNet1d(**SMALL, weight_standardise=False)
    assert not any(isinstance(m, _StandardisedConv) for m in network.modules())


def normed(x: torch.Tensor, norm: _ChannelNorm) -> torch.Tensor:
    return functional.layer_norm(x.mT, x.shape[1:2], norm.gain[:, 0]).mT


def test_full_attention_is_that_of_torch() -> None:
    layer, x = _FullAttention(6, 2, 4).double(), torch.randn(3, 6, 10).double()
    nn.init.normal_(layer.norm.gain)
    q, k, v = (
        t.reshape(3, 2, 4, 10).mT for t in layer.project(normed(x, layer.norm)).chunk(3, dim=1)
    )
    attended = functional.scaled_dot_product_attention(q, k, v).mT.reshape(3, 8, 10)
    torch.testing.assert_close(layer(x), x + layer.out(attended))
    transposed = functional.scaled_dot_product_attention(k, q, v).mT.reshape(3, 8, 10)
    assert (layer(x) - x - layer.out(transposed)).abs().max() > 1e-4  # control: q for k


def test_linear_attention_is_its_sum_over_positions() -> None:
    layer, x = _LinearAttention(6, 2, 4).double(), torch.randn(3, 6, 10).double()
    nn.init.normal_(layer.norm.gain)
    q, k, v = (
        t.reshape(3, 2, 4, 10) for t in layer.project(normed(x, layer.norm)).chunk(3, dim=1)
    )

    def by_pairs(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        # The weight of position m for position n, then the weighted values: quadratic in length.
        weights = torch.einsum("bhen,bhem->bhnm", q, k) / 4**0.5
        attended = torch.einsum("bhnm,bhem->bhen", weights, v).reshape(3, 8, 10)
        return x + normed(layer.out[0](attended), layer.out[1])

    torch.testing.assert_close(layer(x), by_pairs(q.softmax(2), k.softmax(3)))
    other = by_pairs(q.softmax(3), k.softmax(2))  # control: the axes of the softmax
    assert (layer(x) - other).abs().max() > 1e-2


def test_has_second_derivatives() -> None:
    network = UNet1d(**SMALL).double()
    x = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: network(x).sin().sum(), (x,), atol=1e-4)
