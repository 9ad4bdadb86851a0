"""Generation with a cache equals running the whole sequence again."""

import pytest
import torch

from lv_core.nn.transformer import Decoder, DecoderConfig, KVCache
from lv_core.nn.transformer.cache import LayerCache

DOUBLE = torch.float64
BASE = {"vocabulary": 50, "width": 32, "layers": 3, "heads": 4, "max_length": 48}
VARIANTS = {
    "window": {"window": 8, "cross": "per_layer"},
    "window of one": {"window": 1, "cross": "per_layer"},
    "spread": {"window": 8, "cross": "per_layer", "slots": 3, "z_rope": "spread"},
    "grouped": {"window": 8, "kv_heads": 2, "cross": "shared"},
    "upper layers": {"window": 8, "cross": "per_layer", "cross_layers": (1, 2), "heads": 8},
    "whole": {"positions": "learned", "norm": "layer", "bias": True, "cross": "shared"},
    "continuous": {"vocabulary": None, "positions": "none", "cross": "none"},
}
SPLITS = {
    "steps": [1] * 48,
    "prompt shorter than the window": [5] + [1] * 43,
    "prompt as long as the window": [8] + [1] * 40,
    "prompt longer than the window": [21] + [1] * 27,
    "pieces": [3, 4, 9, 1, 1, 20, 1, 2, 7],
}


def make(name, **change):
    decoder = Decoder(DecoderConfig(**BASE | VARIANTS[name] | change)).double().eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return decoder.requires_grad_(False)


def draw(decoder, batch=2, time=48):
    config = decoder.config
    inputs = torch.randint(50, (batch, time))
    if config.vocabulary is None:
        inputs = torch.randn(batch, time, 32, dtype=DOUBLE)
    if config.cross == "none":
        return inputs, None
    sets = (len(config.crossing),) if config.cross == "per_layer" else ()
    return inputs, torch.randn(batch, *sets, 3, 32, dtype=DOUBLE)


def decode(decoder, inputs, memory, split):
    cache, states, start = KVCache(decoder.config), [], 0
    for time in split:
        piece = inputs[:, start : start + time]
        states.append(decoder(piece, memory if start == 0 else None, cache=cache))
        start += time
    assert cache.length == start
    return torch.cat(states, 1), cache


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", VARIANTS)
def test_cached_states_equal_uncached_ones_beyond_the_window(name, split) -> None:
    decoder = make(name)
    inputs, memory = draw(decoder)
    cached, _ = decode(decoder, inputs, memory, SPLITS[split])
    torch.testing.assert_close(cached, decoder(inputs, memory), rtol=0, atol=1e-10)


def test_a_cache_that_forgets_its_positions_would_be_noticed() -> None:
    # Wrong control: the released molecule code restarts positions at each new token.
    decoder = make("whole")
    inputs, memory = draw(decoder)
    cache = KVCache(decoder.config)
    decoder(inputs[:, :20], memory, cache=cache)
    cache.length = 0
    wrong = decoder(inputs[:, 20:21], memory, cache=cache)
    assert float((wrong - decoder(inputs, memory)[:, 20:21]).abs().max()) > 1e-2


def test_holds_a_window_per_layer_whatever_the_length() -> None:
    decoder = make("window")
    inputs, memory = draw(decoder)
    sizes = []
    for time in (2, 9, 48):
        _, cache = decode(decoder, inputs, memory, [time])
        assert [layer.key.shape for layer in cache.layers] == [(2, 8, 4, 8)] * 3
        sizes.append(cache.nbytes)
    assert len(set(sizes)) == 1
    assert KVCache(decoder.config).nbytes == 0
    _, whole = decode(make("whole"), inputs, memory[:, 0], [2])
    assert whole.layers[0].key.shape == (2, 48, 4, 8)


def test_keys_of_the_memory_are_formed_once() -> None:
    decoder = make("window")
    inputs, memory = draw(decoder)
    calls = []
    decoder.blocks[1].cross.key_value.register_forward_hook(lambda *_: calls.append(1))
    decode(decoder, inputs, memory, [5] + [1] * 20)
    assert len(calls) == 1


def test_reordered_sequences_go_on_as_those_they_became() -> None:
    decoder = make("spread")
    inputs, memory = draw(decoder, batch=3)
    _, cache = decode(decoder, inputs[:, :20], memory, [20])
    index = torch.tensor([2, 0, 0, 1])
    cache.reorder(index)
    after = decoder(inputs[index, 20:21], cache=cache)
    wanted = decoder(inputs[index, :21], memory[index])[:, 20:]
    torch.testing.assert_close(after, wanted, rtol=0, atol=1e-10)
    wrong = decoder(inputs[index, :21], memory[[0, 1, 2, 2]])[:, 20:]
    assert not torch.allclose(after, wrong)  # wrong control


def test_an_unused_cache_can_be_reordered() -> None:
    cache = KVCache(make("window").config)
    cache.reorder(torch.tensor([0]))
    assert cache.length == 0


def test_refuses_a_second_memory_another_batch_and_another_decoder() -> None:
    decoder = make("window")
    inputs, memory = draw(decoder)
    _, cache = decode(decoder, inputs[:, :4], memory, [4])
    with pytest.raises(ValueError, match="with the first call of a cache only, got one after 4"):
        decoder(inputs[:, 4:5], memory, cache=cache)
    with pytest.raises(ValueError, match="must hold the 2 sequences of the cache, got 1"):
        decoder(inputs[:1, 4:5], cache=cache)
    with pytest.raises(ValueError, match="cache must be made with the config of this decoder"):
        make("grouped")(inputs[:, 4:5], cache=cache)
    with pytest.raises(
        ValueError, match="max_length=48 tokens, cached ones included, got 45 after 4"
    ):
        decoder(inputs[:, :45], cache=cache)


def test_refuses_to_lose_gradients() -> None:
    decoder = make("window")
    inputs, memory = draw(decoder)
    with pytest.raises(RuntimeError, match="a cache carries no gradient"):
        decoder.requires_grad_(True)(inputs[:, :4], memory, cache=KVCache(decoder.config))
    with torch.no_grad():
        decoder(inputs[:, :4], memory, cache=KVCache(decoder.config))


def test_works_under_autocast() -> None:
    decoder = make("window").float()
    inputs, memory = draw(decoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached, cache = decode(decoder, inputs, memory.float(), [21] + [1] * 27)
    assert cache.layers[0].key.dtype == torch.bfloat16
    exact = decoder(inputs, memory.float())
    assert float((cached - exact).abs().mean() / exact.abs().mean()) < 0.05


@pytest.mark.parametrize("pieces", [[3, 4, 1, 9], [5], [12, 1, 1], [1] * 11, [5, 5], [4, 1, 6]])
def test_a_ring_holds_the_last_tokens_in_order(pieces) -> None:
    ring, seen = LayerCache(5), torch.zeros(1, 0, 1, 1)
    for time in pieces:
        start = seen.shape[1]
        new = torch.arange(start, start + time).float()[None, :, None, None] + 1
        ring.store(new, -new, start)
        seen = torch.cat((seen, new), 1)
        held = min(5, seen.shape[1])
        key, value = ring.last(held, seen.shape[1])
        assert torch.equal(key, seen[:, -held:])
        assert torch.equal(value, -key)
        assert torch.equal(ring.all(seen.shape[1])[0].sort(1)[0], seen[:, -held:])


def test_an_empty_ring_cannot_be_read() -> None:
    with pytest.raises(RuntimeError, match="the cache is empty"):
        LayerCache(5).last(1, 1)
    with pytest.raises(RuntimeError, match="the cache is empty"):
        LayerCache(5).all(1)
