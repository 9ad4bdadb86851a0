"""`probe`: what the latents of a trained model hold, by layer, by swapping, along a path."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apps._runner import UserError
from apps.ltm.commands_open import Common, Opened, batches, open_model, table
from lv_core import Rows
from lv_text import infer
from lv_text.generation import Sampling, generate, posterior_samples, reconstruct
from lv_text.probes import SwapTest, interpolate, layer_reconstruction, swap_test

__all__ = ["Settings", "probe_model", "run"]

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """Probes latents of held-out blocks."""

    steps: int = 0
    """inference steps; 0 = as in training"""
    blocks: int = 8
    """held-out blocks, two or more"""
    texts: int = 2
    """of them are decoded from their latents"""
    points: int = 5
    """latents on the way from the first block's to the second's"""
    tokens: int = 0
    """tokens decoded at each of these; 0 = at most 48"""


def run(given: Settings) -> None:
    """Prints what was found and writes it to probe-<model>.json."""
    if given.blocks < 2:
        raise UserError(f"blocks must be two or more to swap latents, got {given.blocks}")
    opened = open_model(given)
    opened.need_latents("probe")
    found = probe_model(
        opened,
        blocks=given.blocks,
        texts=given.texts,
        points=given.points,
        tokens=given.tokens,
        steps=given.steps,
        seed=given.seed,
    )
    _print(found)
    opened.write("probe", found)


def probe_model(
    opened: Opened,
    *,
    blocks: int = 8,
    texts: int = 2,
    points: int = 5,
    tokens: int = 0,
    steps: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns what a record keeps under "probes".

    Arguments:
        opened: The model.
        blocks: Held-out blocks.
        texts: Of them are decoded from their latents.
        points: Latents on a path between two of them; 0 = no path.
        tokens: Tokens decoded at each; 0 = at most 48.
        steps: Inference steps; 0 = as in training.
        seed: Of all noise.
    """
    model, inference = opened.model, opened.inference(steps)
    batch = next(batches(opened, blocks, blocks))
    rows = Rows.of(seed, batch.index, "probe")
    found = infer(model, batch.x, batch.y, inference, encoder=opened.encoder, generator=rows)
    layers = layer_reconstruction(model, batch.x, batch.y, found.z, samples=4, generator=rows)
    by_kind = layers.per_token()
    record: dict[str, Any] = {
        "layers": list(range(len(layers.accuracy_mean))),
        "accuracy_zeros": layers.accuracy_mean.mean(1).tolist(),
        "accuracy_prior": layers.accuracy_prior.mean(1).tolist(),
        "nll_zeros": by_kind[0].tolist(),
        "nll_prior": by_kind[1].tolist(),
        "swap": {"fitted": _swapped(swap_test(model, batch.x, batch.y, found.z))},
    }
    if found.q is not None:
        fresh = posterior_samples(found, 1, generator=rows)[0]
        record["swap"]["fresh"] = _swapped(swap_test(model, batch.x, batch.y, fresh))
    record["texts"] = _decoded(opened, batch.x[:texts], batch.y[:texts], steps, seed)
    if points and len(found.z) > 1:
        record["path"] = _path(opened, found.z, points, tokens or min(48, model.config.length))
    return record


def _swapped(found: SwapTest) -> dict[str, Any]:
    return {
        "gap_per_token": found.gap_per_token,
        "retrieval": found.retrieval,
        "matrix": (found.nll / found.tokens[:, None]).tolist(),
    }


def _decoded(opened: Opened, x: Tensor, y: Tensor, steps: int, seed: int) -> list[dict[str, Any]]:
    """Returns texts, what their latents decode to, and the share of equal tokens."""
    if not len(x):
        return []
    lengths = (y != IGNORED).sum(1) + 1
    whole = torch.cat((x[:, :1], y.clamp(min=0)), 1)
    rows = Rows.of(seed, range(len(x)), "reconstruction")
    found = reconstruct(
        opened.model,
        whole,
        opened.inference(steps),
        lengths=lengths,
        encoder=opened.encoder,
        generator=rows,
    )
    decode = opened.vocabulary.decode
    return [
        {
            "text": decode(ids[:n], special=False),
            "decoded": decode(made[:n], special=False),
            "share": share,
            "share_given_the_text_before": forced,
        }
        for ids, made, n, share, forced in zip(
            whole,
            found.tokens,
            lengths.tolist(),
            found.share.tolist(),
            found.forced.tolist(),
            strict=True,
        )
    ]


def _path(opened: Opened, z: Tensor, points: int, tokens: int) -> list[str]:
    """Returns greedy texts along the arc from the first latent to the second."""
    way = interpolate(z[0], z[1], points=points)
    drawn = generate(
        opened.model,
        z=way,
        bos=opened.vocabulary.bos,
        new_tokens=tokens,
        sampling=Sampling(temperature=0.0),
    )
    return [opened.vocabulary.decode(ids, special=False) for ids in drawn.tokens]


def _print(found: dict[str, Any]) -> None:
    print("tokens predicted right, and NLL (nats per token), with the latents of the first layers")
    columns = {
        "layers": "layers kept",
        "accuracy_zeros": "right, others zero",
        "accuracy_prior": "right, others from the prior",
        "nll_zeros": "NLL, others zero",
        "nll_prior": "NLL, others from the prior",
    }
    count = len(found["layers"])
    print(table([{title: found[key][k] for key, title in columns.items()} for k in range(count)]))
    for kind, one in found["swap"].items():
        print(
            f"\nNLL per token of each block (row) under the {kind} latent of each block (column); "
            f"another's costs {one['gap_per_token']:.4f} more on average, "
            f"{one['retrieval']:.0%} of the blocks prefer their own (chance "
            f"{1 / len(one['matrix']):.0%})"
        )
        for row in one["matrix"][:12]:
            print("  " + " ".join(f"{value:7.3f}" for value in row[:12]))
    for place, pair in enumerate(found["texts"], 1):
        print(f"\n--- held-out text {place}\n{pair['text']!r}")
        print(f"--- decoded from its latents, {pair['share']:.1%} equal\n{pair['decoded']!r}")
    print("\ngreedy texts on the way from the first block's latents to the second's")
    for place, text in enumerate(found.get("path", []), 1):
        print(f"{place}: {text!r}")
