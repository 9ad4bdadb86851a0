"""Latent thought models in plain PyTorch, as the official program proceeds.

Written from the description of the procedure, for comparison only.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lv_text import ThoughtConfig, ThoughtModel

__all__ = ["PlainThought", "PlainTraining", "plain_from"]

# Shapes: B sequences, T tokens, L layers, M slots per layer, D width, H heads.


class PlainNorm(nn.Module):
    """Root mean square normalization as its formula reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalized states."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class PlainAttention(nn.Module):
    """Multi-head attention of `x` to `source`, four matrices of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, width, bias=False)
        self.wv = nn.Linear(width, width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, source: Tensor, turn: Tensor, source_turn: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Returns what each token reads."""
        q = turned(self.wq(x).unflatten(-1, (self.heads, -1)), turn).transpose(1, 2)
        k = turned(self.wk(source).unflatten(-1, (self.heads, -1)), source_turn).transpose(1, 2)
        v = self.wv(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed: Tensor = self.wo(out.transpose(1, 2).flatten(2))
        return mixed


class PlainBlock(nn.Module):
    """Self-attention, cross-attention to the latents of the layer, gated MLP."""

    def __init__(self, config: ThoughtConfig) -> None:
        super().__init__()
        width, inner = config.width, config.decoder().inner_width
        self.attention_norm, self.attention = (
            PlainNorm(width),
            PlainAttention(width, config.heads),
        )
        self.cross_norm, self.cross = PlainNorm(width), PlainAttention(width, config.heads)
        self.mlp_norm = PlainNorm(width)
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)

    def forward(
        self, x: Tensor, z: Tensor, turn: Tensor, slot_turn: Tensor, mask: Tensor
    ) -> Tensor:
        """Returns the states behind the layer."""
        h = self.attention_norm(x)
        x = x + self.attention(h, h, turn, turn, mask)
        x = x + self.cross(self.cross_norm(x), z, turn, slot_turn, None)
        h = self.mlp_norm(x)
        out: Tensor = x + self.w2(functional.silu(self.w1(h)) * self.w3(h))
        return out


class PlainThought(nn.Module):
    """The decoder: a dense mask over all pairs of tokens, all logits, full cross-entropy."""

    turn: Tensor
    slot_turn: Tensor
    mask: Tensor

    def __init__(self, config: ThoughtConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.layers))
        self.norm = PlainNorm(config.width)
        window = config.length if config.window is None else config.window
        stride = config.decoder().slot_stride
        head = config.width // config.heads
        self.register_buffer("turn", turns(torch.arange(config.length), head))
        self.register_buffer("slot_turn", turns(torch.arange(config.slots) * stride, head))
        row, column = torch.arange(config.length)[:, None], torch.arange(config.length)
        hidden = (column > row) | (column <= row - window)
        mask = torch.zeros(config.length, config.length).masked_fill(hidden, -math.inf)
        self.register_buffer("mask", mask)

    def logits(self, tokens: Tensor, z: Tensor) -> Tensor:
        """Returns the scores of all tokens, `(B, T, V)`."""
        time = tokens.shape[1]
        h = self.tokens(tokens)
        for layer, block in enumerate(self.blocks):
            h = block(h, z[:, layer], self.turn[:time], self.slot_turn, self.mask[:time, :time])
        return functional.linear(self.norm(h), self.tokens.weight)

    def forward(self, tokens: Tensor, targets: Tensor, z: Tensor, reduction: str) -> Tensor:
        """Returns the cross-entropy, summed or averaged."""
        logits = self.logits(tokens, z)
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction=reduction
        )


class PlainTraining:
    """A training iteration: fast steps on (mu, log_var), then one step on the weights.

    `loss.backward()` in the fast steps forms the gradients of all weights, too, and adds them to
    those of the slow step, as released.
    """

    def __init__(self, model: PlainThought, *, steps: int, lr: float) -> None:
        self.model, self.steps, self.lr = model, steps, lr
        self.optimizer = slow_optimizer(model)

    def infer(
        self, tokens: Tensor, targets: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor
    ) -> Tensor:
        """Returns the latents after the fast steps; leaves gradients at the weights."""
        mu, lv = mean.clone().requires_grad_(), log_var.clone().requires_grad_()
        optimizer = torch.optim.AdamW([mu, lv], lr=self.lr)
        for _ in range(self.steps):
            z = mu + noise * torch.exp(0.5 * lv)
            kl = -0.5 * (1 + lv - mu.pow(2) - lv.exp()).sum()
            loss = self.model(tokens, targets, z, "sum") + kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (mu + noise * torch.exp(0.5 * lv)).detach()

    def step(
        self, tokens: Tensor, targets: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor
    ) -> float:
        """Takes one iteration; returns the mean loss of the slow step."""
        z = self.infer(tokens, targets, mean, log_var, noise)
        loss = self.model(tokens, targets, z, "mean")
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def slow_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer of the weights, the same for both sides."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=4e-4, betas=(0.9, 0.95))


def turns(positions: Tensor, head_width: int) -> Tensor:
    """Returns rotations as pairs of cosine and sine, `(T, E / 2, 2)`, in float64."""
    rate = 10_000.0 ** (-torch.arange(0, head_width, 2).double() / head_width)
    angle = positions[:, None] * rate
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """Turns the interleaved pairs of features of `x`, `(B, T, H, E)`."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(turn)[:, None]).flatten(3)


def plain_from(model: ThoughtModel) -> PlainThought:
    """Returns the plain model with the weights of one of ours, in its type."""
    config, decoder = model.config, model.decoder
    plain = PlainThought(config)
    state = {"tokens.weight": decoder.tokens.weight, "norm.weight": decoder.norm.weight}
    for l, block in enumerate(decoder.blocks):
        wq, wk, wv = block.attention.qkv.weight.chunk(3)
        ck, cv = block.cross.key_value.weight.chunk(2)
        parts = {
            "attention_norm.weight": block.attention_norm.weight,
            "attention.wq.weight": wq,
            "attention.wk.weight": wk,
            "attention.wv.weight": wv,
            "attention.wo.weight": block.attention.out.weight,
            "cross_norm.weight": block.cross_norm.weight,
            "cross.wq.weight": block.cross.query.weight,
            "cross.wk.weight": ck,
            "cross.wv.weight": cv,
            "cross.wo.weight": block.cross.out.weight,
            "mlp_norm.weight": block.mlp_norm.weight,
            "w1.weight": block.mlp.gate.weight,
            "w2.weight": block.mlp.down.weight,
            "w3.weight": block.mlp.up.weight,
        }
        state |= {f"blocks.{l}.{name}": value for name, value in parts.items()}
    missing = plain.load_state_dict(state, strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) - {"turn", "slot_turn", "mask"}:
        raise ValueError(f"the two models do not match: {missing}")
    return plain.to(next(model.parameters()).dtype)
