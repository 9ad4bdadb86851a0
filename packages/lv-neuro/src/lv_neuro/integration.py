"""Path integration: turns are applied one after the other, the heading is decoded after each."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lv_neuro.angles import check_radians
from lv_neuro.transforms.base import Stepper
from lv_neuro.walks import Integration

__all__ = ["apply_turn", "check_codes", "check_walks", "integrate"]

# Shape legend: S stacked seeds, B walks, T time, d neurons.


def check_walks(start: Tensor, turns: Tensor) -> None:
    """Refuses walks that are no walks and warns of degrees.

    Raises:
        ValueError: If `start` is not `(walks,)`, `turns` not `(walks, time)` with at least one
            turn, or a value is not finite.
    """
    if start.dim() != 1 or turns.dim() != 2 or len(start) != len(turns) or not turns.numel():
        raise ValueError(
            "start must have shape (walks,) and turns (walks, time) with equally many walks and "
            f"at least one turn, got {tuple(start.shape)} and {tuple(turns.shape)}"
        )
    check_radians("start", start)
    check_radians("turns", turns, kind="turn")


def check_codes(v: Tensor, *, seeds: int, neurons: int, turns: Tensor | None = None) -> None:
    """Refuses what is no batch of codes of a model, and turns that do not fit it.

    Raises:
        ValueError: Names the shapes.
    """
    if v.ndim < 2 or v.shape[0] != seeds or v.shape[-1] != neurons:
        raise ValueError(
            f"v must have shape (seeds, ..., neurons) = ({seeds}, ..., {neurons}), got "
            f"{tuple(v.shape)}; seeds come first, also when there is one"
        )
    if turns is None:
        return
    sizes = zip(reversed(turns.shape), reversed(v.shape[:-1]), strict=False)
    fits = v.ndim == 3 and turns.ndim <= 2 and all(a in (1, b) for a, b in sizes)
    if not fits:
        raise ValueError(
            "v must have shape (seeds, batch, neurons) and dx one that broadcasts to (seeds, "
            f"batch), got {tuple(v.shape)} and {tuple(turns.shape)}; encode a single heading as "
            "torch.tensor([x])"
        )


def apply_turn(
    stepper: Stepper, v: Float[Tensor, "seeds walks neurons"], dx: Tensor, *, largest: float
) -> Float[Tensor, "seeds walks neurons"]:
    """Returns F(v, dx); turns beyond the largest are split into equal parts.

    Arguments:
        stepper: From `Transformation.stepper`.
        v: Codes.
        dx: Turns in radians that broadcast to `(seeds, walks)`.
        largest: Largest turn the stepper takes, in radians.
    """
    dx = dx.expand(v.shape[:-1])
    # A relative margin, as K h in float32 may come out just above K h.
    parts = (dx.abs() / (largest * (1 + 1e-5))).ceil().clamp_min(1)
    most = int(parts.max())
    if most == 1:
        return stepper(v, dx)
    for part in range(most):
        v = torch.where((parts > part)[..., None], stepper(v, dx / parts), v)
    return v


@torch.no_grad()
def integrate(
    stepper: Stepper,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    start: Float[Tensor, " walks"],
    turns: Float[Tensor, "walks time"],
    *,
    largest: float,
    mode: Literal["vanilla", "reencode"] = "vanilla",
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Integration:
    """Follows headings from their turns: v_0 = v(x_0), v_t = F(v_{t-1}, dx_t) + noise.

    Arguments:
        stepper: F, from `Transformation.stepper`.
        encode: Headings `(seeds, walks)` to codes `(seeds, walks, neurons)`.
        decode: Codes to headings.
        start: Headings before the first turn, radians.
        turns: Turns in radians; those beyond `largest` are split into equal parts.
        largest: Largest turn the stepper takes, in radians.
        mode: "vanilla" never looks at a heading again; "reencode" decodes after each turn and
            goes on from the code of the decoded heading.
        noise: Expected norm of the vector added after each turn, relative to a code's norm 1
            (the state of a linear model may have grown beyond it).
        generator: Source of the noise, the same for all seeds; None means torch's global one.

    Returns:
        Decoded headings after each turn, and the last codes (before re-encoding).

    Raises:
        ValueError: For an unknown mode, negative noise, and walks that are none.

    Source:
        Zhao et al., 2024 (path integration); the modes follow Xu et al., 2025.
    """
    check_walks(start, turns)
    if mode not in ("vanilla", "reencode"):
        raise ValueError(f"unknown mode {mode!r}; there are: vanilla, reencode")
    if not noise >= 0:
        raise ValueError(f"noise must not be negative, got {noise}")
    v = encode(start)
    x = torch.empty(len(v), *turns.shape, dtype=v.dtype, device=v.device)
    turns = turns.to(v)
    scale = noise / math.sqrt(v.shape[-1])
    # The largest of each step, read at once: a check inside the loop would wait for the device.
    most = turns.abs().amax(0).tolist()
    for t in range(turns.shape[1]):
        if t and mode == "reencode":
            v = encode(x[..., t - 1])
        if most[t] <= largest * (1 + 1e-5):
            v = stepper(v, turns[:, t].expand(v.shape[:-1]))
        else:
            v = apply_turn(stepper, v, turns[:, t], largest=largest)
        if noise:
            # One draw for all seeds, as they have one set of walks: a seed's errors do not depend
            # on what it is stacked with.
            v = v + scale * torch.randn(
                v.shape[1:], generator=generator, dtype=v.dtype, device=v.device
            )
        x[..., t] = decode(v)
    return Integration(x, v)
