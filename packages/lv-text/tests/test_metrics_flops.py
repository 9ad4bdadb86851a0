"""Operation counts against printed values and against a counted reference network."""

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lv_core.nn.transformer import Decoder, DecoderConfig, token_nll
from lv_text.metrics import (
    decoder_parameters,
    keys_per_query,
    training_flops,
    utilization,
)

SIZES = {"width": 512, "mlp_width": 1376, "vocabulary": 50258, "length": 1024, "window": 256}
# layers, slots per layer, fast steps, parameters, printed operations, without weight gradients
PAPER = [
    (3, 8, 16, 38.37e6, 4.07e9, 2.80e9),
    (6, 4, 16, 51.01e6, 5.52e9, 3.79e9),
    (12, 8, 64, 76.28e6, 32.2e9, 21.6e9),
]


def three_digits(value):
    return float(f"{value:.3g}")


@pytest.mark.parametrize(("layers", "slots", "steps", "size", "paper", "frozen"), PAPER)
def test_reproduces_the_printed_operations_to_three_digits(
    layers, slots, steps, size, paper, frozen
):
    count = training_flops(layers=layers, slots=slots, fast_steps=steps, **SIZES)
    assert round(count.parameters / 1e4) == round(size / 1e4)
    assert three_digits(count.paper) == paper
    assert three_digits(count.frozen) == frozen
    # control: leaving out the step on the weights does not give the printed values
    assert three_digits(count.paper * steps / (steps + 1)) != paper


def test_gives_the_parameters_of_the_released_configuration():
    size = decoder_parameters(layers=12, width=768, mlp_width=2048, vocabulary=50258)
    assert round(size / 1e5) == 1519


def test_takes_other_parameter_counts():
    count = training_flops(layers=3, slots=8, fast_steps=1, parameters=1000, **SIZES)
    assert count.paper == 2 * (6 * 1000 + 6 * 3 * 512 * 1024)


@pytest.mark.parametrize(("length", "window"), [(7, 3), (8, 8), (5, 9), (6, 1), (6, None)])
def test_counts_the_pairs_of_the_window_mask(length, window):
    i, j = torch.arange(length)[:, None], torch.arange(length)
    mask = (j <= i) & (j > i - (window or length))
    pairs = keys_per_query(length=length, window=window, attention="window")
    assert pairs == pytest.approx(int(mask.sum()) / length)


def test_counts_the_pairs_of_blocks_and_of_the_square():
    assert keys_per_query(length=64, window=8, attention="banded") == 16
    assert keys_per_query(length=8, window=8, attention="banded") == 8
    assert keys_per_query(length=12, window=8, attention="banded") == 16 * 16 / 12
    assert keys_per_query(length=64, window=8, attention="dense") == 64


class Reference(nn.Module):
    """The decoder with every product written out, so that the profiler sees it."""

    def __init__(self, layers, latent, width, mlp_width, vocabulary):
        super().__init__()
        linear = nn.Linear
        self.embedding = nn.Embedding(vocabulary, width)
        self.own = nn.ModuleList(
            nn.ModuleList(linear(width, width, bias=False) for _ in range(4))
            for _ in range(layers)
        )
        self.cross = nn.ModuleList(
            nn.ModuleList(linear(width, width, bias=False) for _ in range(4))
            for _ in range(latent)
        )
        self.mlp = nn.ModuleList(
            nn.ModuleList(
                linear(*shape, bias=False)
                for shape in ((width, mlp_width), (width, mlp_width), (mlp_width, width))
            )
            for _ in range(layers)
        )
        self.lower = layers - latent

    @staticmethod
    def attend(maps, h, source):
        q, k, v, o = maps
        scores = torch.bmm(q(h), k(source).mT).softmax(-1)
        return o(torch.bmm(scores, v(source)))

    def forward(self, x, z):
        h = self.embedding(x)
        for layer in range(len(self.own)):
            h = h + self.attend(self.own[layer], h, h)
            if layer >= self.lower:
                upper = layer - self.lower
                h = h + self.attend(self.cross[upper], h, z[:, upper])
            gate, up, down = self.mlp[layer]
            h = h + down(gate(h).sigmoid() * up(h))
        return (h @ self.embedding.weight.T).logsumexp(-1).sum()


SMALL = {"layers": 3, "width": 8, "mlp_width": 24, "vocabulary": 20, "length": 6}


def product(total, left, right, **_):
    return 2 * left[0] * left[1] * right[1]


def counted(function):
    # fused attention hides its products from the profiler
    # and it does not know products that are added in place
    known = {torch.ops.aten.addmm_: product}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=known) as counter,
    ):
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_counts_what_the_profiler_counts(latent):
    batch, slots, time = 2, 5, SMALL["length"]
    shape = {name: SMALL[name] for name in ("layers", "width", "mlp_width", "vocabulary")}
    model = Reference(latent=latent, **shape)
    x = torch.randint(shape["vocabulary"], (batch, time))
    z = torch.randn(batch, latent, slots, shape["width"])
    count = training_flops(
        **SMALL,
        slots=slots,
        fast_steps=4,
        latent_layers=latent,
        attention="dense",
        cache_prefix=False,
        recompute_logits=False,
    )
    tokens = batch * time

    slow = counted(lambda: model(x, z).backward())
    assert slow == round(count.slow_step.total * tokens)

    model.requires_grad_(False)
    z.requires_grad_(True)
    fast = counted(lambda: torch.autograd.grad(model(x, z.clone()), z))
    assert fast == round(count.fast_step.total * tokens)

    # control: with trainable weights the fast step costs more, as in the released loop
    model.requires_grad_(True)
    leaking = counted(lambda: model(x, z).backward())
    assert leaking > 1.2 * count.fast_step.total * tokens


@pytest.mark.parametrize("latent", [1, 3])
@pytest.mark.parametrize("window", [None, 4])
def test_counts_what_the_shared_decoder_does(latent, window):
    batch, slots, time, layers = 2, 5, 10, 3
    shape = {"layers": layers, "width": 8, "mlp_width": 24, "vocabulary": 20}
    config = DecoderConfig(
        **shape,
        heads=2,
        max_length=time,
        window=window,
        cross="per_layer",
        cross_layers=tuple(range(layers - latent, layers)),
        slots=slots,
    )
    model = Decoder(config)
    tokens = torch.randint(20, (batch, time + 1))
    x, y = tokens[:, :-1], tokens[:, 1:]
    z = torch.randn(batch, latent, slots, 8)
    count = training_flops(
        **shape,
        length=time,
        window=window,
        slots=slots,
        fast_steps=4,
        latent_layers=latent,
        attention="banded",
    )
    assert count.parameters == model.parameters_count()

    def loss(hidden):
        return token_nll(hidden, model.head_weight, y).sum()

    slow = counted(lambda: loss(model(x, z)).backward())
    assert slow == round(count.slow_step.total * x.numel())
    model.requires_grad_(False)
    z.requires_grad_(True)
    assert counted(lambda: model.lower(x)) == round(count.prefix.total * x.numel())
    lower = model.lower(x)
    fast = counted(lambda: torch.autograd.grad(loss(model.upper(lower, z.clone())), z))
    assert fast == round(count.fast_step.total * x.numel())
    total = count.slow_step.total + count.prefix.total + 4 * count.fast_step.total
    assert count.counted.total == pytest.approx(total)


def test_repeats_what_comes_before_the_slots_unless_it_is_cached():
    rest = {**SMALL, "slots": 5, "fast_steps": 4, "latent_layers": 1}
    cached = training_flops(**rest)
    repeated = training_flops(**rest, cache_prefix=False)
    assert repeated.prefix.total == 0
    assert repeated.counted.total - cached.counted.total == pytest.approx(3 * cached.prefix.total)


def test_counts_the_autoregressive_baseline():
    count = training_flops(
        **SMALL, slots=0, fast_steps=0, attention="dense", recompute_logits=False
    )
    model = Reference(latent=0, **{k: v for k, v in SMALL.items() if k != "length"})
    x = torch.randint(SMALL["vocabulary"], (2, SMALL["length"]))
    assert counted(lambda: model(x, None).backward()) == round(count.counted.total * x.numel())
    assert count.counted.cross_projections == count.counted.cross_attention == 0
    assert count.parameters == sum(p.numel() for p in model.parameters()) + 8 * 7  # norms


def test_multiplies_fast_steps_by_samples():
    one = training_flops(**SMALL, slots=5, fast_steps=4)
    three = training_flops(**SMALL, slots=5, fast_steps=4, samples=3)
    assert three.fast_steps == 12
    extra = three.counted.total - one.counted.total
    assert extra == pytest.approx(8 * one.fast_step.total)


def test_splits_the_total_into_parts():
    count = training_flops(**SMALL, slots=5, fast_steps=0)
    parts = count.slow_step
    assert parts.vocabulary == 4 * 2 * 8 * 20  # once more for the logits formed again
    assert parts.mlp == 3 * 3 * 6 * 8 * 24
    assert parts.total == pytest.approx(
        parts.projections
        + parts.attention
        + parts.cross_projections
        + parts.cross_attention
        + parts.mlp
        + parts.vocabulary
    )


def test_a_narrow_window_saves_operations():
    wide = training_flops(layers=3, slots=8, fast_steps=16, **SIZES | {"window": None})
    narrow = training_flops(layers=3, slots=8, fast_steps=16, **SIZES)
    assert narrow.counted.attention < 0.5 * wide.counted.attention
    assert narrow.paper == wide.paper


def test_computes_utilization():
    assert utilization(3e12, 2.0, 6e12) == 0.25


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_utilization_refuses_what_is_not_positive(bad):
    with pytest.raises(ValueError, match="peak must be positive"):
        utilization(1.0, 1.0, bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"window": 0}, "window must be at least 1"),
        ({"slots": -1}, "must not be negative"),
        ({"slots": 0}, "fast_steps must be 0 without slots, got 4"),
        ({"latent_layers": 4}, "latent_layers must be in 1..layers"),
        ({"latent_layers": 0}, "latent_layers must be in 1..layers"),
    ],
)
def test_refuses_sizes_that_make_no_model(change, message):
    with pytest.raises(ValueError, match=message):
        training_flops(**{**SMALL, "slots": 5, "fast_steps": 4, **change})


def test_refuses_unknown_attention(wrong_types):
    with pytest.raises(ValueError, match="unknown attention 'flash'"):
        keys_per_query(length=4, window=2, attention="flash")
