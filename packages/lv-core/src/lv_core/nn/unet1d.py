"""A one-dimensional U-Net from signal to signal."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UNet1d"]

# Shapes: B signals, C channels, L length, H heads, E width of a head.

Attention = Literal["all", "middle", "none"]
Init = Literal["default", "kaiming"]


class UNet1d(nn.Module):
    """Maps a signal to a signal of the same length through a U-Net without time embedding.

    Convolution of kernel 7; on the way down, each level has two residual blocks and attention,
    then halves the length; two residual blocks around attention in the middle; the way up mirrors
    the way down and sees its features; a last residual block sees those of the first convolution.
    A block is twice (3-wide convolution, group norm, SiLU) plus a shortcut. Any number of batch
    axes; every signal is mapped on its own.

    Size, and time of value and gradient for 64 signals of length 256 on one thread of a server's
    CPU (torch 2.13); on a CPU, linear attention is most of it, so start from the cheap ones:

    | network | parameters | milliseconds |
    |---|---|---|
    | `UNet1d()`, that of both papers | 990,945 | 580 |
    | `UNet1d(attention="middle")` | 801,425 | 220 |
    | `UNet1d(attention="none")` | 735,633 | 170 |
    | `UNet1d(multipliers=(1, 2), attention="none")` | 51,953 | 85 |
    | `UNet1d(8, (1, 2), attention="none")` | 13,433 | 46 |

    Arguments:
        width: Channels of the first convolution.
        multipliers: Channels of each level as multiples of `width`; the length is halved after
            each level but the last, so it must be divisible by `2^(levels - 1)`.
        attention: `all` = linear attention on every level and full attention in the middle,
            `middle` = the latter alone, `none` = convolutions only.
        weight_standardise: Whether each filter of a 3-wide convolution in a block is shifted to
            mean 0 and scaled to variance 1 before use.
        groups: Groups of the group norm; divides the channels of every level.
        heads: Heads of the attention.
        head_width: Width of a head.
        residual: Whether to return `x + f(x)` with the last convolution started at 0, so that the
            network starts as the identity. The papers have no such path.
        init: `default` = torch's initialisation (plan paper); `kaiming` = uniform of unit gain,
            standard deviation `fan_in^-1/2`, and biases 0 (molecule paper).

    Raises:
        ValueError: If a length is not positive or `groups` does not divide the channels.

    Source:
        Kong et al., "Molecule Design by Latent Prompt Transformer", 2024, and "Latent Plan
        Transformer for Trajectory Abstraction", 2024, whose latent prior this is.

    Example:
        >>> prior = TransportPrior(UNet1d(init="kaiming"), (4, 256))
    """

    def __init__(
        self,
        width: int = 16,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        *,
        attention: Attention = "all",
        weight_standardise: bool = True,
        groups: int = 8,
        heads: int = 4,
        head_width: int = 32,
        residual: bool = False,
        init: Init = "default",
    ) -> None:
        super().__init__()
        if not multipliers or min(width, *multipliers, groups, heads, head_width) < 1:
            raise ValueError(
                "width, multipliers, groups, heads and head_width must be positive, got "
                f"{width=}, multipliers={tuple(multipliers)}, {groups=}, {heads=}, {head_width=}"
            )
        widths = (width, *(width * m for m in multipliers))
        if any(w % groups for w in widths):
            raise ValueError(
                f"groups must divide the channels of every level, got {groups=} for channels "
                f"{widths}"
            )
        self.factor = 2 ** (len(multipliers) - 1)
        self.residual = residual

        def block(c_in: int, c_out: int) -> nn.Module:
            return _Block(c_in, c_out, groups, weight_standardise)

        def linear(channels: int) -> nn.Module:
            on = attention == "all"
            return _LinearAttention(channels, heads, head_width) if on else nn.Identity()

        levels = list(pairwise(widths))
        last = len(levels) - 1
        self.stem = nn.Conv1d(1, width, 7, padding=3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for k, (c_in, c_out) in enumerate(levels):
            narrower = (
                nn.Conv1d(c_in, c_out, 3, padding=1)
                if k == last
                else nn.Conv1d(c_in, c_out, 4, stride=2, padding=1)
            )
            self.down.append(_Level(block(c_in, c_in), block(c_in, c_in), linear(c_in), narrower))
        wide = widths[-1]
        full = nn.Identity() if attention == "none" else _FullAttention(wide, heads, head_width)
        self.middle = nn.Sequential(block(wide, wide), full, block(wide, wide))
        for k, (c_in, c_out) in reversed(list(enumerate(levels))):
            # Level k leads back to the length at which level k - 1 stored its features.
            wider: nn.Module = nn.Conv1d(c_out, c_in, 3, padding=1)
            if k > 0:
                wider = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), wider)
            both = c_out + c_in
            self.up.append(_Level(block(both, c_out), block(both, c_out), linear(c_out), wider))
        self.join = block(2 * width, width)
        self.head = nn.Conv1d(width, 1, 1)
        if init == "kaiming":
            self.apply(_kaiming)
        if residual:
            nn.init.zeros_(self.head.weight)
            assert self.head.bias is not None
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "*batch length"]) -> Float[Tensor, "*batch length"]:
        """Returns the mapped signals.

        Raises:
            ValueError: If the length is not divisible by `2^(levels - 1)`.
        """
        length = x.shape[-1]
        if length == 0 or length % self.factor:
            raise ValueError(
                f"the length of the signals must be divisible by {self.factor} (halved after each "
                f"of {len(self.down)} levels but the last), got shape {tuple(x.shape)}: pad them "
                "or use fewer multipliers"
            )
        h = first = self.stem(x.reshape(-1, 1, length))  # (B, C, L)
        kept = []
        for level in self.down:
            assert isinstance(level, _Level)
            h = level.one(h)
            kept.append(h)
            h = level.attend(level.two(h))
            kept.append(h)
            h = level.resample(h)
        h = self.middle(h)
        for level in self.up:
            assert isinstance(level, _Level)
            h = level.one(torch.cat((h, kept.pop()), dim=1))
            h = level.two(torch.cat((h, kept.pop()), dim=1))
            h = level.resample(level.attend(h))
        out: Tensor = self.head(self.join(torch.cat((h, first), dim=1))).reshape(x.shape)
        return x + out if self.residual else out


class _Level(nn.Module):
    """What happens at one length; the way down and the way up use it in their own order."""

    def __init__(
        self, one: nn.Module, two: nn.Module, attend: nn.Module, resample: nn.Module
    ) -> None:
        super().__init__()
        self.one, self.two, self.attend, self.resample = one, two, attend, resample


class _StandardisedConv(nn.Conv1d):
    """A convolution whose filters have mean 0 and variance 1, whatever the weights."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2), correction=0, keepdim=True)
        weight = (self.weight - mean) * (variance + 1e-5).rsqrt()
        return functional.conv1d(x, weight, self.bias, self.stride, self.padding)


class _Block(nn.Module):
    """Twice (convolution, group norm, SiLU) plus a shortcut."""

    def __init__(self, c_in: int, c_out: int, groups: int, standardise: bool) -> None:
        super().__init__()
        conv = _StandardisedConv if standardise else nn.Conv1d
        self.body = nn.Sequential(
            conv(c_in, c_out, 3, padding=1),
            nn.GroupNorm(groups, c_out),
            nn.SiLU(),
            conv(c_out, c_out, 3, padding=1),
            nn.GroupNorm(groups, c_out),
            nn.SiLU(),
        )
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv1d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each position, with a gain and no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.gain


class _Heads(nn.Module):
    """Projections that both kinds of attention share."""

    def __init__(self, channels: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.scale = head_width**-0.5
        self.norm = _ChannelNorm(channels)
        self.project = nn.Conv1d(channels, 3 * inner, 1, bias=False)
        self.out: nn.Module = nn.Conv1d(inner, channels, 1)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns queries, keys and values, each `(B, H, E, L)`."""
        parts: Tensor = self.project(self.norm(x))
        return parts.reshape(len(x), 3, self.heads, -1, x.shape[-1]).unbind(1)


class _LinearAttention(_Heads):
    """x + attention in time linear in the length: the values are summed before the queries."""

    def __init__(self, channels: int, heads: int, head_width: int) -> None:
        super().__init__(channels, heads, head_width)
        self.out = nn.Sequential(self.out, _ChannelNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        q = q.softmax(dim=-2) * self.scale
        summary = v @ k.softmax(dim=-1).mT  # (B, H, E, E)
        out: Tensor = x + self.out((summary @ q).flatten(1, 2))
        return out


class _FullAttention(_Heads):
    """x + softmax attention over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        # Written out, as fused attention has no second derivative and positions are few here.
        weights = (q.mT @ k * self.scale).softmax(dim=-1)  # (B, H, L, L)
        out: Tensor = x + self.out((v @ weights.mT).flatten(1, 2))
        return out


def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
