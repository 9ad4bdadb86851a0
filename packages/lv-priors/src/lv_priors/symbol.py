"""Energy-based priors whose tilt is a classifier: one latent, one of K symbols."""

from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lv_core import Kernel, Source
from lv_priors.base import PriorLoss
from lv_priors.energy import BoundEnergyPrior, EnergyPrior

__all__ = ["SymbolEnergyPrior"]


class SymbolEnergyPrior(EnergyPrior):
    """p(z, y) proportional to `exp(f(z)[y]) N(z; 0, scale^2 I)` with a symbol y in 0..K-1.

    The network gives K logits f(z). Then `p(y | z) = softmax(f(z))`, the prior of z is tilted by
    `logsumexp f(z)`, and given a symbol it is tilted by `f(z)[y]` (`given`). With symbols known
    for some latents, `loss` is the negative log-likelihood of pairs (its gradient, exactly):
    `log p(z, y) = log p(z) + log p(y | z)`.

    Arguments:
        logits: Network from `(*batch, *event)` to `(*batch, symbols)`.
        event: Shape of one latent, or its length.
        symbols: K, at least 2.
        scale: Standard deviation of the reference normal.
        start_scale: Standard deviation of the starts of chains.
        sampler: Kernel that `sample` runs from those starts.
        energy_l2: Weight of mean tilt^2 added to the loss.

    Raises:
        ValueError: If `symbols` is below 2, or a setting of `EnergyPrior` is out of range.

    Source:
        Pang and Wu, "Latent Space Energy-Based Model of Symbol-Vector Coupling for Text
        Generation and Classification", 2021.

    Example:
        >>> prior = SymbolEnergyPrior(mlp((32, 64, 10)), 32, symbols=10)
        >>> threes = prior.given(torch.tensor([3])).sample(64)
    """

    sharded_methods: ClassVar[tuple[str, ...]] = (
        *EnergyPrior.sharded_methods,
        "logits",
        "symbol_log_prob",
    )

    def __init__(
        self,
        logits: nn.Module,
        event: int | tuple[int, ...],
        *,
        symbols: int,
        scale: float = 1.0,
        start_scale: float = 1.0,
        sampler: Kernel | None = None,
        energy_l2: float = 0.0,
    ) -> None:
        super().__init__(
            logits,
            event,
            scale=scale,
            start_scale=start_scale,
            sampler=sampler,
            energy_l2=energy_l2,
        )
        if symbols < 2:
            raise ValueError(f"symbols must be at least 2, got {symbols}")
        self.symbols = symbols

    def logits(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns f(z), `(*batch, *event) -> (*batch, symbols)`.

        Raises:
            ValueError: If `z` has another event shape or the network another number of outputs.
        """
        self.check_event(z, "z")
        batch = z.shape[: z.ndim - len(self.event_shape)]
        value: Tensor = self.network(z)
        if value.shape != (*batch, self.symbols):
            raise ValueError(
                f"the network must return one logit per symbol, shape "
                f"{(*batch, self.symbols)}, got {tuple(value.shape)}"
            )
        return value

    def tilt(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `logsumexp f(z)`, the tilt of the latent alone."""
        return self.logits(z).logsumexp(dim=-1)

    def conditional_tilt(
        self, z: Float[Tensor, "..."], condition: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Returns `f(z)[y]`, with one symbol for each latent, shape `(*batch,)`."""
        return self.logits(z).gather(-1, condition.unsqueeze(-1)).squeeze(-1)

    def given(self, condition: Int[Tensor, " n"]) -> BoundEnergyPrior:
        """Returns p(z | y), one symbol for each latent or one for all.

        Raises:
            ValueError: If a symbol is not in 0..symbols-1.
        """
        self._check_symbols(condition, lowest=0)
        return BoundEnergyPrior(self, condition.long())

    def symbol_log_prob(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `log p(y | z)` of every symbol, `(*batch, *event) -> (*batch, symbols)`."""
        return self.logits(z).log_softmax(dim=-1)

    def loss(
        self,
        u_posterior: Tensor,
        u_prior: Tensor | None = None,
        *,
        generator: Source = None,
        symbols: Int[Tensor, " n"] | None = None,
        symbol_weight: float = 1.0,
    ) -> PriorLoss:
        """Returns the contrastive loss, plus the cross-entropy of the symbols that are known.

        Arguments:
            u_posterior: Posterior samples, detached, shape `(n, *event)`.
            u_prior: Prior samples, shape `(m, *event)`; None = drawn by `sample`.
            generator: Source of randomness of that draw.
            symbols: Symbol of each posterior sample, shape `(n,)`; -1 = unknown, None = none
                known.
            symbol_weight: Weight of the cross-entropy, which is summed over known symbols and
                divided by n; 1 is maximum likelihood.

        Raises:
            ValueError: If `symbols` has another length, or a symbol is not in -1..symbols-1.
        """
        contrast, logs = super().loss(u_posterior, u_prior, generator=generator)
        if symbols is None:
            return PriorLoss(contrast, logs)
        self._check_symbols(symbols, lowest=-1)
        if len(symbols) != len(u_posterior):
            raise ValueError(
                f"symbols must hold one entry for each posterior sample, {len(u_posterior)}, got "
                f"{len(symbols)}; mark unknown ones by -1"
            )
        scores = self.symbol_log_prob(u_posterior)
        entropy = functional.nll_loss(scores, symbols.long(), ignore_index=-1, reduction="sum")
        entropy = entropy / len(symbols)
        known = symbols >= 0
        right = (scores.argmax(dim=-1) == symbols) & known
        accuracy = right.sum() / known.sum().clamp(min=1)
        return PriorLoss(
            contrast + symbol_weight * entropy,
            {**logs, "cross_entropy": entropy.detach(), "accuracy": accuracy.to(entropy.dtype)},
        )

    def _check_symbols(self, symbols: Tensor, *, lowest: int) -> None:
        # One synchronisation; a symbol out of range would be a device assertion on a GPU.
        if bool(((symbols < lowest) | (symbols >= self.symbols)).any()):
            raise ValueError(
                f"symbols must lie in {lowest}..{self.symbols - 1}, got "
                f"{int(symbols.min())}..{int(symbols.max())}"
            )

    def extra_repr(self) -> str:
        """Shows the settings of the energy prior and the number of symbols."""
        return f"{super().extra_repr()}, symbols={self.symbols}"
