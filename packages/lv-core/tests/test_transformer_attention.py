"""Self-attention over a window, rotary positions and cross-attention to slots."""

import math

import pytest
import torch

from lv_core.nn.transformer import DecoderConfig, causal_attention, rotary_angles, rotate
from lv_core.nn.transformer.cross import CrossAttention
from lv_core.nn.transformer.window import _flex, _flexible, band_mask

DOUBLE = torch.float64


def dense(query, key, value, window):
    """The definition: all scores, then -inf outside of the window."""
    times = query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(times, dim=2) for x in (key, value))
    score = torch.einsum("bthe,bshe->bhts", query, key) / math.sqrt(query.shape[3])
    t = torch.arange(query.shape[1])
    gap = t[:, None] - t[None]
    hidden = (gap < 0) | (gap >= (window or query.shape[1]))
    weight = score.masked_fill(hidden, -math.inf).softmax(-1)
    return torch.einsum("bhts,bshe->bthe", weight, value)


def heads(time, key_heads=4, dtype=DOUBLE, width=16):
    query = torch.randn(2, time, 4, width, dtype=dtype, requires_grad=True)
    key, value = (
        torch.randn(2, time, key_heads, width, dtype=dtype, requires_grad=True) for _ in range(2)
    )
    return query, key, value


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize(
    ("time", "window"), [(1, 4), (5, 8), (8, 8), (9, 8), (16, 8), (31, 8), (13, 1), (7, None)]
)
def test_equals_attention_with_a_dense_mask(time, window, key_heads) -> None:
    inputs = heads(time, key_heads)
    ours, reference = causal_attention(*inputs, window=window), dense(*inputs, window)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((reference * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_window_one_token_wider_is_another_function() -> None:
    inputs = heads(31)
    gap = (causal_attention(*inputs, window=8) - dense(*inputs, 9)).abs()
    assert bool((gap[:, :8] < 1e-12).all())  # the first 8 see everything before them either way
    assert bool((gap[:, 8:].amax((0, 2, 3)) > 1e-3).all())


def test_a_band_made_once_serves_as_one_made_in_the_call() -> None:
    query, key, value = heads(31)
    mask = band_mask(2, 31, 8, dtype=DOUBLE, device=query.device)
    assert mask.shape == (8, 1, 8, 16)
    assert torch.equal(
        causal_attention(query, key, value, window=8, mask=mask),
        causal_attention(query, key, value, window=8),
    )


@pytest.mark.parametrize(("attend", "growth"), [("blocks", 4), ("mask", 16)])
def test_what_is_kept_grows_linearly_with_time_unlike_with_a_mask(attend, growth) -> None:
    def kept(time: int) -> int:
        sizes = []
        q, k, v = inputs = heads(time, dtype=torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.append(x.numel()) or x, lambda x: x
        ):
            causal_attention(q, k, v, window=8) if attend == "blocks" else dense(*inputs, 8)
        return sum(sizes)

    assert kept(1024) / kept(256) == pytest.approx(growth, rel=0.2)


@pytest.mark.parametrize("time", [20, 130, 300])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_path_of_a_gpu_equals_the_dense_mask(time, key_heads) -> None:
    inputs = [x.detach() for x in heads(time, key_heads, torch.float32)]
    torch.testing.assert_close(
        _flex(*inputs, 9), dense(*inputs, 9), rtol=0, atol=1e-5
    )  # float32, sums of at most 9


@pytest.mark.gpu
def test_the_compiled_path_of_a_gpu_equals_the_blocks() -> None:
    inputs = [x.detach().cuda().requires_grad_() for x in heads(300, 4, torch.float32, 32)]
    mask = band_mask(2, 300, 64, dtype=torch.float32, device=inputs[0].device)
    fast = causal_attention(*inputs, window=64)
    blocks = causal_attention(*inputs, window=64, mask=mask)
    torch.testing.assert_close(fast, blocks, rtol=0, atol=2e-3)  # TF32 products
    for a, b in zip(
        torch.autograd.grad(fast.square().sum(), inputs),
        torch.autograd.grad(blocks.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-2)


def test_what_the_kernels_of_a_gpu_do_not_take_goes_through_the_blocks() -> None:
    assert _flexible(torch.zeros(1, 1, 1, 64), 0.0)
    assert not _flexible(torch.zeros(1, 1, 1, 64), 0.1)
    assert not _flexible(torch.zeros(1, 1, 1, 64, dtype=DOUBLE), 0.0)
    assert not _flexible(torch.zeros(1, 1, 1, 8), 0.0)
    assert not _flexible(torch.zeros(1, 1, 1, 48), 0.0)


def test_gradients_of_gradients_exist_where_the_products_have_them() -> None:
    inputs = [x.detach()[:1, :, :2, :2].clone().requires_grad_() for x in heads(5)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda *x: causal_attention(*x, window=2), inputs)


def test_dropout_keeps_the_mean_of_attention() -> None:
    query, key, value = (x.detach() for x in heads(24, dtype=torch.float32))
    inputs = [x.repeat(512, 1, 1, 1) for x in (query, key, value)]
    out = causal_attention(*inputs, window=8, dropout=0.3).unflatten(0, (512, 2))
    error = (out.mean(0) - causal_attention(query, key, value, window=8)).abs()
    # Five standard errors of each mean of 512 draws, plus rounding where nothing was dropped.
    assert bool((error <= 5 * out.std(0) / 512**0.5 + 1e-5).all())
    assert float(out.std(0).max()) > 0.1


def angles(positions, width=16):
    return rotary_angles(torch.as_tensor(positions), width, dtype=DOUBLE)


def test_products_of_turned_vectors_depend_on_the_distance_only() -> None:
    query, key = torch.randn(2, 1, 1, 3, 16, dtype=DOUBLE)

    def product(t: int, s: int) -> torch.Tensor:
        return (rotate(query, angles([t])) * rotate(key, angles([s]))).sum(-1)

    torch.testing.assert_close(product(7, 3), product(1007, 1003))
    assert float((product(7, 3) - product(8, 3)).abs().max()) > 1e-3  # wrong control


def test_turns_interleaved_pairs_by_the_published_angles() -> None:
    x = torch.randn(2, 3, 4, 6, dtype=DOUBLE)
    out = rotate(x, angles([0, 5, 11], 6))
    for t, position in enumerate((0, 5, 11)):
        for i in range(3):
            angle = position * 10_000 ** (-2 * i / 6)
            c, s = math.cos(angle), math.sin(angle)
            a, b = x[:, t, :, 2 * i], x[:, t, :, 2 * i + 1]
            torch.testing.assert_close(out[:, t, :, 2 * i], a * c - b * s)
            torch.testing.assert_close(out[:, t, :, 2 * i + 1], a * s + b * c)


def test_the_blocks_of_compiled_graphs_are_those_of_others(monkeypatch) -> None:
    inputs = heads(31)
    eager = causal_attention(*inputs, window=8)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(causal_attention(*inputs, window=8), eager)


def test_the_form_for_compiled_graphs_turns_alike(monkeypatch) -> None:
    x, turn = torch.randn(2, 3, 4, 16, dtype=DOUBLE), angles([0, 5, 11])
    eager = rotate(x, turn)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, turn), eager, rtol=0, atol=1e-15)


def test_half_types_are_turned_in_single_precision() -> None:
    x = torch.randn(2, 3, 4, 16).bfloat16()
    turn = angles([0, 5, 11]).float()
    out = rotate(x, turn)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, rotate(x.float(), turn).bfloat16())


CROSS = {
    "vocabulary": None,
    "width": 64,
    "layers": 2,
    "heads": 4,
    "max_length": 64,
    "cross": "shared",
}


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 8, 9, 20])  # up to 8 slots are folded: 2 H M <= D
def test_folding_projections_into_few_slots_changes_nothing(slots, bias, rope) -> None:
    layer = CrossAttention(DecoderConfig(**CROSS, bias=bias, memory_width=24)).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 11, 64, dtype=DOUBLE, requires_grad=True)
    z = torch.randn(2, slots, 24, dtype=DOUBLE, requires_grad=True)
    at_x, at_z = angles(range(11)), angles([5 * m for m in range(slots)])
    held = layer.slots(z, at_z if rope else None)
    assert (held.key.ndim == 3) == (slots <= 8)
    ours = layer(x, held, at_x if rope else None)

    def reference(at_x, at_z):
        query = layer.query(x).unflatten(-1, (4, 16))
        key, value = layer.key_value(z).unflatten(-1, (2, 4, 16)).unbind(2)
        if rope:
            query, key = rotate(query, at_x), rotate(key, at_z)
        score = torch.einsum("bthe,bmhe->bhtm", query, key) / 4
        return layer.out(torch.einsum("bhtm,bmhe->bthe", score.softmax(-1), value).flatten(2))

    plain = reference(at_x, at_z)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    wanted = [x, z, *layer.parameters()]
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), wanted),
        torch.autograd.grad((plain * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    if rope and slots > 1:  # wrong control: slots at other positions
        other = reference(at_x, angles([4 * m for m in range(slots)]))
        assert not torch.allclose(ours, other, rtol=0, atol=1e-4)


def test_dropout_of_the_weights_of_slots_works_in_training_only() -> None:
    layer = CrossAttention(DecoderConfig(**CROSS, dropout=0.5)).double()
    x, z = torch.randn(2, 11, 64, dtype=DOUBLE), torch.randn(2, 3, 64, dtype=DOUBLE)
    held = layer.slots(z, None)
    assert not torch.equal(layer(x, held, None), layer(x, held, None))
    layer.eval()
    assert torch.equal(layer(x, held, None), layer(x, held, None))
