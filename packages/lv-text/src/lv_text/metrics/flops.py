"""Floating-point operations of training, per token: three ways to count them.

Legend: L layers, D width, F width of the MLP, V vocabulary, T tokens, W window, M slots per layer.
One multiplication with its addition counts as two operations, as everywhere in the field; norms,
softmax, rotary positions and optimizers are left out, since they are a per cent at most.
"""

from dataclasses import dataclass, fields
from typing import Literal

__all__ = [
    "Operations",
    "TrainingFlops",
    "decoder_parameters",
    "keys_per_query",
    "training_flops",
    "utilization",
]

Attention = Literal["window", "banded", "dense"]


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Operations of one pass, per token, by the part of the network that spends them."""

    projections: float
    """query, key, value and output projections of the self-attention"""
    attention: float
    """scores and weighted values of the self-attention"""
    cross_projections: float
    """projections of the cross-attention; those of the slots are shared by a sequence's tokens"""
    cross_attention: float
    """scores and weighted values over the slots"""
    mlp: float
    """the three matrices of the gated MLP"""
    vocabulary: float
    """projection to the vocabulary"""

    @property
    def total(self) -> float:
        """Gives the sum of all parts."""
        return float(sum(getattr(self, part.name) for part in fields(self)))

    def plus(self, other: "Operations", *, times: int | float = 1.0) -> "Operations":
        """Returns self + times * other, part by part."""
        return Operations(
            **{
                part.name: getattr(self, part.name) + times * getattr(other, part.name)
                for part in fields(self)
            }
        )


@dataclass(frozen=True, kw_only=True)
class TrainingFlops:
    """Operations per training token: fast steps on the latents, then one step on the weights."""

    paper: float
    """`(fast_steps + 1) (6 N + 6 L D T)`, the accounting of the paper's tables"""
    frozen: float
    """`fast_steps (4 N + 4 L D T) + 6 N + 6 L D T`: the same without weight gradients in fast
    steps"""
    parameters: int
    """N of both formulas"""
    fast_steps: int
    """steps on the latents per step on the weights"""
    fast_step: Operations
    """counted: one fast step, forward and gradient with respect to the slots alone"""
    slow_step: Operations
    """counted: one step on the weights, forward and gradient, slots given"""
    prefix: Operations
    """counted: forward pass up to the first slots, run once per batch when it is cached"""

    @property
    def counted(self) -> Operations:
        """Gives all operations of one training token, part by part."""
        return self.slow_step.plus(self.prefix).plus(self.fast_step, times=self.fast_steps)


def decoder_parameters(
    *, layers: int, width: int, mlp_width: int, vocabulary: int, latent_layers: int | None = None
) -> int:
    """Returns the number of parameters of the decoder, tied embedding counted once.

    N = V D + L (4 D^2 + 3 D F + 2 D) + K (4 D^2 + D) + D for K layers with cross-attention.

    Arguments:
        layers: L.
        width: D.
        mlp_width: F of the gated MLP.
        vocabulary: V.
        latent_layers: K; None is all of them, 0 the autoregressive baseline.
    """
    latent = layers if latent_layers is None else latent_layers
    block = 4 * width**2 + 3 * width * mlp_width + 2 * width
    return vocabulary * width + layers * block + latent * (4 * width**2 + width) + width


def keys_per_query(*, length: int, window: int | None, attention: Attention) -> float:
    """Returns how many keys a position is multiplied with, on average over a sequence.

    Arguments:
        length: Tokens T of a sequence.
        window: Positions seen, the own one included; None sees all earlier ones.
        attention: `"window"` counts only the pairs that the mask lets through, `"banded"` blocks
            of `window` that each meet themselves and the block before (all pairs if the window is
            no shorter than the sequence), `"dense"` all T x T pairs.

    Raises:
        ValueError: If the attention is unknown.
    """
    reach = length if window is None else min(window, length)
    if attention == "window":
        # positions 0..reach-1 see 1..reach keys, all others `reach`
        return (reach * (reach + 1) / 2 + (length - reach) * reach) / length
    if attention == "banded":
        blocks = -(-length // reach)  # the last one is filled up
        return float(length) if reach == length else blocks * reach * 2.0 * reach / length
    if attention == "dense":
        return float(length)
    raise ValueError(f"unknown attention {attention!r}; there are: window, banded, dense")


def training_flops(
    *,
    layers: int,
    width: int,
    mlp_width: int,
    vocabulary: int,
    length: int,
    slots: int,
    fast_steps: int,
    window: int | None = None,
    latent_layers: int | None = None,
    samples: int = 1,
    attention: Attention = "window",
    cache_prefix: bool = True,
    recompute_logits: bool = True,
    parameters: int | None = None,
) -> TrainingFlops:
    """Counts the operations of training per token: the paper's way, frozen, and exactly.

    The exact count knows what an automatic gradient needs: in fast steps no weight gradients, and
    nothing of the first latent layer in front of its slots; in the slow step no gradient of the
    slots. Keys and values of the slots are computed once per sequence.

    Arguments:
        layers: L.
        width: D.
        mlp_width: F of the gated MLP.
        vocabulary: V.
        length: Tokens T of a sequence.
        slots: M, latent vectors per latent layer; 0 with `fast_steps=0` is the autoregressive
            baseline.
        fast_steps: Steps on the latents per step on the weights, 0 or more.
        window: Positions seen by the self-attention; None for all. The first two formulas ignore
            it, as the paper does.
        latent_layers: How many of the topmost layers read slots; None is all (none if there are
            no slots).
        samples: Noise draws per fast step; multiplies the fast steps of all three counts.
        attention: How the self-attention is computed, see `keys_per_query`.
        cache_prefix: Whether what comes before the first slots (layers below the first latent
            one, and the self-attention of that one) is run once per batch (`Decoder.lower`)
            rather than in every fast step.
        recompute_logits: Whether the slow step forms the logits again on the way back, as
            `token_nll` does to save their memory; False for the utilization of model operations.
        parameters: N of the first two formulas; None takes `decoder_parameters`.

    Returns:
        Three counts, the last one by named parts.

    Raises:
        ValueError: If a size is out of range or the slots contradict the fast steps.

    Source:
        First formula: reproduces the training operations printed in Kong et al., "Latent Thought
        Models with Variational Bayes Inference-Time Computation", 2025.

    Example:
        >>> count = training_flops(layers=3, width=512, mlp_width=1376, vocabulary=50258,
        ...                        length=1024, window=256, slots=8, fast_steps=16)
        >>> print(f"{count.paper:.3g} {count.frozen:.3g}")
        4.07e+09 2.8e+09
    """
    sizes = {"layers": layers, "width": width, "mlp_width": mlp_width, "vocabulary": vocabulary}
    sizes |= {"length": length, "samples": samples, "window": 1 if window is None else window}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if slots < 0 or fast_steps < 0:
        raise ValueError(f"slots and fast_steps must not be negative, got {slots}, {fast_steps}")
    if fast_steps and not slots:
        raise ValueError(
            f"fast_steps must be 0 without slots, got {fast_steps}: there is nothing to infer"
        )
    latent = (layers if slots else 0) if latent_layers is None else latent_layers
    if not (1 if slots else 0) <= latent <= (layers if slots else 0):
        raise ValueError(
            f"latent_layers must be in 1..layers with slots and 0 without, got {latent} of "
            f"{layers} layers, {slots=}"
        )
    size = parameters or decoder_parameters(
        layers=layers,
        width=width,
        mlp_width=mlp_width,
        vocabulary=vocabulary,
        latent_layers=latent,
    )
    span = layers * width * length
    steps = fast_steps * samples
    slow = 6 * size + 6 * span

    square = 2.0 * width**2
    mlp = 6.0 * width * mlp_width
    mixing = 2 * keys_per_query(length=length, window=window, attention=attention) * width
    shared = 2 * square * slots / length  # keys and values of the slots, per token
    lower = layers - latent
    below = _block(lower, square, mixing, mlp)
    upper = _block(latent, square, mixing, mlp)
    crossing = _only(
        cross_projections=latent * (2 * square + shared),
        cross_attention=latent * 4.0 * slots * width,
        vocabulary=2.0 * width * vocabulary,
    )
    forward = upper.plus(crossing)
    # Gradients of inputs cost as much as the forward pass for a projection (one factor is a
    # weight), twice as much for attention (both factors are activations).
    fast_gradient = Operations(
        projections=max(latent - 1, 0) * 4 * square,
        attention=max(latent - 1, 0) * 4 * mixing,
        # queries of the first latent layer do not depend on the latents
        cross_projections=latent * (2 * square + shared) - (square if latent else 0.0),
        cross_attention=max(8.0 * latent - 2.0, 0.0) * slots * width,
        mlp=upper.mlp,
        vocabulary=crossing.vocabulary,
    )
    whole = below.plus(forward)
    # all activations and all weights, but the slots are given
    slow_step = whole.plus(whole, times=2).plus(_only(cross_projections=-latent * shared))
    if recompute_logits:
        slow_step = slow_step.plus(_only(vocabulary=crossing.vocabulary))
    fast_step = forward.plus(fast_gradient)
    prefix = below.plus(_block(min(latent, 1), square, mixing, 0.0))
    if cache_prefix:
        fast_step = fast_step.plus(_block(min(latent, 1), square, mixing, 0.0), times=-1)
    else:
        fast_step = fast_step.plus(below)
    return TrainingFlops(
        paper=float((steps + 1) * slow),
        frozen=float(steps * (4 * size + 4 * span) + slow),
        parameters=size,
        fast_steps=steps,
        fast_step=fast_step,
        slow_step=slow_step,
        prefix=prefix if cache_prefix and steps else _only(),
    )


def _block(layers: int, square: float, mixing: float, mlp: float) -> Operations:
    """Returns the forward operations of self-attention and MLP of some layers."""
    return _only(projections=layers * 4 * square, attention=layers * 2 * mixing, mlp=layers * mlp)


def _only(**parts: float) -> Operations:
    """Returns the operations of some parts, none of the others."""
    return Operations(**{part.name: 0.0 for part in fields(Operations)} | parts)


def utilization(flops: float, seconds: float, peak: float) -> float:
    """Returns the share of the device's rate that was used: flops / (seconds * peak).

    Arguments:
        flops: Operations done, e.g. `training_flops(...).counted.total` times tokens.
        seconds: Time they took.
        peak: Operations per second that the device could do, e.g. the measured rate of a large
            matrix product.

    Raises:
        ValueError: If an argument is not positive.
    """
    for name, value in {"flops": flops, "seconds": seconds, "peak": peak}.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    return flops / (seconds * peak)
