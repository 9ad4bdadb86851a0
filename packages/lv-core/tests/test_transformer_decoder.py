"""The shared decoder against a plain transcription, its laws, its sizes and its errors."""

import math

import pytest
import torch
from torch.nn import functional

from lv_core import frozen
from lv_core.nn.transformer import Decoder, DecoderConfig, token_nll

DOUBLE = torch.float64
TEXT = {
    "vocabulary": 50,
    "width": 32,
    "layers": 3,
    "heads": 4,
    "max_length": 64,
    "window": 8,
    "cross": "per_layer",
}
MOLECULE = {
    "vocabulary": 109,
    "outputs": 108,
    "tie": False,
    "width": 32,
    "layers": 3,
    "heads": 4,
    "max_length": 73,
    "positions": "learned",
    "norm": "layer",
    "mlp": "gelu",
    "bias": True,
    "cross": "shared",
    "memory_norm": "shared",
}
PLAN = {
    "vocabulary": None,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "max_length": 40,
    "positions": "none",
    "norm": "layer",
    "mlp": "relu",
    "bias": True,
    "cross": "shared",
    "memory_norm": "per_layer",
}
VARIANTS = {
    "text": TEXT,
    "spread": TEXT | {"slots": 3, "z_rope": "spread"},
    "official": TEXT | {"slots": 3, "z_rope": "official"},
    "grouped": TEXT | {"kv_heads": 2, "cross_layers": (1, 2)},
    "many slots": TEXT | {"slots": 3, "heads": 8, "memory_width": 20},
    "molecule": MOLECULE,
    "plan": PLAN,
}


def make(name, **change):
    """A decoder of larger random weights than a fresh one, so that every part matters."""
    decoder = Decoder(DecoderConfig(**VARIANTS.get(name, {}) | change)).double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return decoder


def draw(decoder, time=21, batch=2):
    config = decoder.config
    if config.vocabulary is None:
        inputs = torch.randn(batch, time, config.width, dtype=DOUBLE)
    else:
        inputs = torch.randint(config.vocabulary, (batch, time))
    sets = (len(config.crossing),) if config.cross == "per_layer" else ()
    memory = torch.randn(batch, *sets, 3, config.slot_width, dtype=DOUBLE)
    return inputs, memory


def norm(layer, config, x):
    if config.norm == "rms":
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight
    center = x - x.mean(-1, keepdim=True)
    scale = (center.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return center / scale * layer.weight + (layer.bias if layer.bias is not None else 0)


def turn(x, positions):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    rate = 10_000 ** (-torch.arange(x.shape[-1] // 2, dtype=DOUBLE) * 2 / x.shape[-1])
    angle = positions[:, None, None] * rate
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def attend(query, key, value, seen):
    times = query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(times, dim=2) for x in (key, value))
    score = torch.einsum("bthe,bshe->bhts", query, key) / math.sqrt(query.shape[3])
    weight = score.masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("bhts,bshe->bthe", weight, value).flatten(2)


def transcription(decoder, inputs, memory, *, mask=True):
    """The specification written down line by line: dense mask, nothing fused, nothing shared."""
    config = decoder.config
    x = inputs if config.vocabulary is None else decoder.tokens.weight[inputs]
    t = torch.arange(x.shape[1])
    if config.positions == "learned":
        x = x + decoder.places.weight[t]
    gap = t[:, None] - t[None]
    seen = (gap >= 0) & (gap < (config.window or 10**6)) if mask else gap == gap
    if config.memory_norm == "shared":
        memory = norm(decoder.memory_norm, config, memory)
    rope = config.positions == "rope"
    crossed = 0
    for l, block in enumerate(decoder.blocks):
        sizes = [config.heads, config.key_heads, config.key_heads]
        qkv = block.attention.qkv(norm(block.attention_norm, config, x))
        q, k, v = qkv.unflatten(-1, (-1, config.head_width)).split(sizes, 2)
        if rope:
            q, k = turn(q, t), turn(k, t)
        x = x + block.attention.out(attend(q, k, v, seen))
        if memory is not None and l in config.crossing:
            z = memory[:, crossed] if config.cross == "per_layer" else memory
            crossed += 1
            if config.memory_norm == "per_layer":
                z = norm(block.cross.memory_norm, config, z)
            shape = (2, config.heads, config.head_width)
            q = block.cross.query(norm(block.cross_norm, config, x)).unflatten(-1, shape[1:])
            k, v = block.cross.key_value(z).unflatten(-1, shape).unbind(2)
            if config.z_rope != "none":
                sets = config.layers if config.z_rope == "official" else 1
                stride = config.max_length // (3 * sets)
                q, k = turn(q, t), turn(k, torch.arange(3) * stride)
            x = x + block.cross.out(attend(q, k, v, torch.tensor(True)))
        h, mlp = norm(block.mlp_norm, config, x), block.mlp
        if config.mlp == "swiglu":
            gate = mlp.gate(h)
            x = x + mlp.down(gate * torch.sigmoid(gate) * mlp.up(h))
        elif config.mlp == "gelu":
            u = mlp.up(h)
            x = x + mlp.down(
                u / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (u + 0.044715 * u**3)))
            )
        else:
            x = x + mlp.down(mlp.up(h).clamp(min=0))
    return norm(decoder.norm, config, x)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("time", [1, 8, 21])
def test_equals_the_specification_written_down_plainly(name, time) -> None:
    decoder = make(name)
    inputs, memory = draw(decoder, time)
    hidden = decoder(inputs, memory)
    assert hidden.dtype == DOUBLE
    torch.testing.assert_close(hidden, transcription(decoder, inputs, memory), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_memory_is_the_decoder_without_cross_attention(name) -> None:
    decoder = make(name)
    inputs, memory = draw(decoder)
    hidden = decoder(inputs)
    alone = Decoder(
        DecoderConfig(**VARIANTS[name] | {"cross": "none", "cross_layers": None, "z_rope": "none"})
    ).double()
    kept = alone.state_dict().keys()
    alone.load_state_dict({k: v for k, v in decoder.state_dict().items() if k in kept})
    torch.testing.assert_close(hidden, alone(inputs), rtol=0, atol=1e-12)
    assert not torch.allclose(hidden, decoder(inputs, memory))
    torch.testing.assert_close(decoder.upper(decoder.lower(inputs)), hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(alone.upper(alone.lower(inputs)), hidden, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_lower_layers_are_reused_while_the_memory_changes(name) -> None:
    decoder = make(name)
    inputs, memory = draw(decoder)
    lower = decoder.lower(inputs)
    for z in (memory, -memory):
        torch.testing.assert_close(decoder.upper(lower, z), decoder(inputs, z), rtol=0, atol=1e-12)


def test_lower_goes_as_far_as_the_first_cross_attention() -> None:
    decoder = make("text", cross_layers=(2,))
    ran = []
    for l, block in enumerate(decoder.blocks):
        block.attention.register_forward_hook(lambda *_, l=l: ran.append(("attention", l)))
        block.mlp.register_forward_hook(lambda *_, l=l: ran.append(("mlp", l)))
    inputs, memory = draw(decoder)
    lower = decoder.lower(inputs)
    assert ran == [("attention", 0), ("mlp", 0), ("attention", 1), ("mlp", 1), ("attention", 2)]
    ran.clear()
    decoder.upper(lower, memory)
    assert ran == [("mlp", 2)]


@pytest.mark.parametrize("name", VARIANTS)
def test_later_tokens_do_not_change_earlier_states(name) -> None:
    decoder = make(name)
    inputs, memory = draw(decoder)
    other = inputs.clone()
    other[:, 12:] = draw(decoder)[0][:, 12:]
    change = (decoder(inputs, memory) - decoder(other, memory)).detach().abs().amax((0, 2))
    assert float(change[:12].max()) < 1e-12
    assert float(change[12:].max()) > 1e-3
    # Wrong control: without the mask they do.
    free = [transcription(decoder, x, memory, mask=False) for x in (inputs, other)]
    assert float((free[0] - free[1])[:, :12].detach().abs().max()) > 1e-6


def test_a_token_reaches_no_further_than_the_windows_of_all_layers() -> None:
    decoder = make("text", window=4)
    inputs, memory = draw(decoder, 24)
    other = inputs.clone()
    other[:, 3] = (other[:, 3] + 1) % 50
    change = (decoder(inputs, memory) - decoder(other, memory)).detach().abs().amax((0, 2))
    reach = 3 + 3 * (4 - 1)  # each layer adds window - 1
    assert float(change[3 : reach + 1].min()) > 1e-9
    assert float(change[reach + 1 :].max()) < 1e-12


@pytest.mark.parametrize("name", VARIANTS)
def test_sequences_do_not_see_their_batch(name) -> None:
    decoder = make(name)
    inputs, memory = draw(decoder, batch=5)
    together = decoder(inputs, memory)
    for i in range(5):
        one = decoder(inputs[i : i + 1], memory[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], one, rtol=0, atol=1e-12)


def test_each_layer_reads_its_own_slots() -> None:
    decoder = make("text")
    inputs, memory = draw(decoder)
    hidden = decoder(inputs, memory)
    swapped = decoder(inputs, memory[:, [1, 0, 2]])
    assert not torch.allclose(hidden, swapped)
    shared = make("text", cross="shared")
    shared.load_state_dict(decoder.state_dict())
    same = memory[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        shared(inputs, memory[:, 0]), decoder(inputs, same), rtol=0, atol=1e-12
    )


def test_slots_without_positions_are_a_set_and_with_them_are_not() -> None:
    for name, alike in (("text", True), ("spread", False)):
        decoder = make(name)
        inputs, memory = draw(decoder)
        flipped = decoder(inputs, memory.flip(-2))
        assert torch.allclose(decoder(inputs, memory), flipped, atol=1e-10) == alike


def nll(decoder, inputs, memory):
    targets = inputs.roll(-1, 1).clamp(max=40)
    return token_nll(decoder(inputs, memory), decoder.head_weight, targets).sum()


@pytest.mark.parametrize("name", ["text", "spread", "grouped", "many slots", "molecule"])
def test_gradients_of_the_memory_equal_finite_differences(name) -> None:
    decoder = make(name)
    inputs, memory = draw(decoder)
    memory.requires_grad_()
    with frozen(decoder):
        (grad,) = torch.autograd.grad(nll(decoder, inputs, memory), memory)
        for _ in range(3):
            way = torch.randn_like(memory)
            with torch.no_grad():
                ends = [nll(decoder, inputs, memory + s * 1e-5 * way) for s in (1, -1)]
            slope = float(ends[0] - ends[1]) / 2e-5
            assert float((grad * way).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-6)
            # Wrong control: the gradient of another sequence order.
            assert float((grad.flip(0) * way).sum()) != pytest.approx(slope, rel=1e-2)


def test_inference_leaves_no_gradient_of_parameters_and_no_graph_below() -> None:
    decoder = make("text", cross_layers=(2,))
    inputs, memory = draw(decoder)
    memory.requires_grad_()
    with frozen(decoder):
        assert not decoder.lower(inputs).requires_grad
        nll(decoder, inputs, memory).backward()
    assert memory.grad is not None
    assert all(p.grad is None for p in decoder.parameters())
    nll(decoder, inputs, memory.detach()).backward()
    # Wrong control: unfrozen, every parameter gets one.
    assert all(p.grad is not None for p in decoder.parameters())


@pytest.mark.parametrize(
    ("layers", "millions", "exact"),
    [(3, 38.37, 38_369_280), (6, 51.01, 51_005_952), (12, 76.28, 76_279_296)],
)
def test_has_the_sizes_of_the_text_paper(layers, millions, exact) -> None:
    with torch.device("meta"):
        decoder = Decoder(
            DecoderConfig(
                vocabulary=50_258,
                width=512,
                layers=layers,
                heads=8,
                max_length=1024,
                window=256,
                cross="per_layer",
            )
        )
    d, f = 512, 1376
    assert exact == 50_258 * d + layers * (8 * d * d + 3 * d * f + 3 * d) + d
    assert decoder.parameters_count() == exact
    assert round(exact / 1e6, 2) == millions


def test_has_the_size_of_the_molecule_paper() -> None:
    decoder = Decoder(DecoderConfig(**MOLECULE | {"width": 256}))
    assert decoder.parameters_count() == 3_235_584  # specification: 3.236 M


def test_counts_a_tied_embedding_once() -> None:
    tied, apart = (Decoder(DecoderConfig(**TEXT | {"tie": tie})) for tie in (True, False))
    assert apart.parameters_count() - tied.parameters_count() == 50 * 32
    assert tied.head_weight is tied.tokens.weight
    assert apart.head_weight is apart.head.weight


@pytest.mark.parametrize("scaled", ["residual", "official"])
def test_starts_with_the_published_deviations(scaled) -> None:
    decoder = Decoder(
        DecoderConfig(**TEXT | {"width": 128, "bias": True, "norm": "layer"}, scaled_init=scaled)
    )
    ends = ("attention.out.weight", "cross.out.weight")
    ends += ("mlp.down.weight",) if scaled == "residual" else ("mlp.up.weight",)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim < 2:
            assert bool((parameter == (1.0 if name.endswith("weight") else 0.0)).all())
        else:
            std = 0.02 / math.sqrt(6) if name.endswith(ends) else 0.02
            n = parameter.numel()  # standard error of a deviation: std / sqrt(2 n)
            assert abs(float(parameter.detach().std()) - std) < 5 * std / math.sqrt(2 * n)


def test_initial_weights_come_from_the_generator_alone() -> None:
    one, two = (
        Decoder(DecoderConfig(**TEXT), generator=torch.Generator().manual_seed(3)).state_dict()
        for _ in range(2)
    )
    other = Decoder(DecoderConfig(**TEXT), generator=torch.Generator().manual_seed(4)).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["tokens.weight"], other["tokens.weight"])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_decoder_gives_the_same_states(name, tmp_path) -> None:
    decoder, copy = make(name), make(name)
    inputs, memory = draw(decoder)
    torch.save(decoder.state_dict(), tmp_path / "weights.pt")
    assert not torch.equal(copy(inputs, memory), decoder(inputs, memory))
    copy.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(copy(inputs, memory), decoder(inputs, memory))


@pytest.mark.parametrize("name", ["text", "spread", "many slots", "molecule"])
def test_runs_in_low_precision_with_a_memory_of_single_precision(name) -> None:
    decoder = make(name).float()
    inputs, memory = draw(decoder)
    memory = memory.float().requires_grad_()
    exact = decoder(inputs, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16), frozen(decoder):
        rough = decoder(inputs, memory)
        (grad,) = torch.autograd.grad(nll(decoder, inputs, memory), memory)
    assert grad.dtype == torch.float32
    gap = float((rough - exact).detach().abs().mean() / exact.detach().abs().mean())
    assert 1e-5 < gap < 0.05  # bfloat16 keeps 8 bits
    half = decoder.bfloat16()(inputs, memory)
    assert half.dtype == torch.bfloat16


@pytest.mark.slow
def test_a_compiled_decoder_gives_the_same_states_and_gradients() -> None:
    decoder = make("spread").float()
    inputs, memory = draw(decoder)
    memory = memory.float().requires_grad_()
    compiled = torch.compile(decoder, fullgraph=True)
    with frozen(decoder):
        exact, fast = decoder(inputs, memory), compiled(inputs, memory)
        torch.testing.assert_close(fast, exact, rtol=1e-3, atol=1e-3)  # float32, reordered sums
        one, two = (torch.autograd.grad(x.square().sum(), memory)[0] for x in (exact, fast))
    torch.testing.assert_close(two, one, rtol=1e-2, atol=1e-2)


def test_dropout_acts_in_training_only() -> None:
    decoder = make("text", dropout=0.2)
    inputs, memory = draw(decoder)
    assert not torch.equal(decoder(inputs, memory), decoder(inputs, memory))
    decoder.eval()
    assert torch.equal(decoder(inputs, memory), decoder(inputs, memory))


def test_logits_are_those_that_the_loss_scores() -> None:
    decoder = make("molecule")
    inputs, memory = draw(decoder)
    hidden, targets = decoder(inputs, memory), torch.randint(108, (2, 21))
    logits = decoder.logits(hidden)
    assert logits.shape == (2, 21, 108)
    torch.testing.assert_close(
        token_nll(hidden, decoder.head_weight, targets),
        functional.cross_entropy(logits.mT, targets, reduction="none"),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :0], "1 to max_length=64 tokens, cached ones included, got 0 after 0"),
        (lambda x: x.repeat(1, 4), "got 84 after 0: cut the sequence"),
        (lambda x: x + 50, r"inputs must be ids in \[0, 50\), got [5-9][0-9]: encode with"),
        (lambda x: x - 50, r"inputs must be ids in \[0, 50\), got -[0-9]+: encode with"),
    ],
)
def test_refuses_sequences_that_do_not_fit(change, message) -> None:
    decoder = make("text")
    with pytest.raises(ValueError, match=message):
        decoder(change(draw(decoder)[0]))


@pytest.mark.usefixtures("wrong_types")
def test_refuses_inputs_that_are_no_batch_of_tokens() -> None:
    decoder = make("text")
    inputs, _ = draw(decoder)
    with pytest.raises(ValueError, match=r"token ids \(batch, time\) .* got \(21,\)"):
        decoder(inputs[0])
    with pytest.raises(ValueError, match=r"got \(2, 21\) of torch.float64"):
        decoder(inputs.double())


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z[:, :2],
        lambda z: z[..., :5],
        lambda z: z[:, 0],
        lambda z: z[:, :, :0],
    ],
)
def test_refuses_a_memory_of_another_shape(change) -> None:
    decoder = make("text")
    inputs, memory = draw(decoder)
    bad = change(memory)
    shapes = r"\(2, 3, 'any', 32\) for cross='per_layer', got \(" + str(bad.shape[0])
    with pytest.raises(ValueError, match=r"memory must be \(batch, layers, slots, .*" + shapes):
        decoder(inputs, bad)


@pytest.mark.usefixtures("wrong_types")
def test_refuses_a_memory_of_another_batch() -> None:
    decoder = make("text")
    inputs, memory = draw(decoder)
    with pytest.raises(ValueError, match=r"got \(1, 3, 3, 32\)"):
        decoder(inputs, memory[:1])


def test_refuses_another_number_of_slots_and_a_memory_for_which_there_is_no_layer() -> None:
    decoder = make("text", cross="shared", slots=3)
    inputs, memory = draw(decoder)
    with pytest.raises(ValueError, match=r"\(2, 3, 32\) for cross='shared', got \(2, 2, 32\)"):
        decoder(inputs, memory[:, :2])
    with pytest.raises(ValueError, match="for cross='none', got"):
        make("text", cross="none")(inputs, memory)


def test_a_decoder_of_embeddings_refuses_other_inputs_and_has_no_head() -> None:
    decoder = make("plan")
    with pytest.raises(ValueError, match=r"inputs must be embeddings \(batch, time, width\)"):
        decoder(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"inputs must be 32 wide, got \(2, 5, 31\)"):
        decoder(torch.zeros(2, 5, 31, dtype=DOUBLE))
    with pytest.raises(ValueError, match="vocabulary=None scores ids only if outputs is set"):
        decoder.logits(torch.zeros(2, 5, 32, dtype=DOUBLE))
    acting = make("plan", outputs=7)
    assert acting.logits(acting(torch.zeros(2, 5, 32, dtype=DOUBLE))).shape == (2, 5, 7)


def test_a_window_as_long_as_the_context_is_full_attention() -> None:
    wide, full = make("text", window=64), make("text", window=None)
    full.load_state_dict(wide.state_dict())
    inputs, memory = draw(wide, 40)
    torch.testing.assert_close(wide(inputs, memory), full(inputs, memory), rtol=0, atol=1e-12)
