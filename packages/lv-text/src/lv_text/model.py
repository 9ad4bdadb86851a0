"""The decoder with latent thoughts: p(x | z) of a sequence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lv_core.nn import Decoder, token_nll
from lv_text.config import ThoughtConfig

__all__ = ["ThoughtModel", "evaluating"]

# Shapes: B sequences, T tokens, L layers that read latents, M slots, D width of a slot.


class ThoughtModel(nn.Module):
    """A causal language model whose layers read latent thought vectors of the whole sequence.

    p(x) = E_{z ~ N(0, I)} p(x | z),    p(x | z) = prod_t p(x_t | x_{t-window..t-1}, z)

    The latent of a sequence is `(L, M, D)`: each layer attends to M vectors of its own. It is not
    given by an encoder but inferred for each sequence, see `lv_text.infer`. Without latents
    (`z=None`) cross-attention is left out: the autoregressive model on the same blocks.

    Arguments:
        config: Sizes.
        generator: Source of the initial weights; None = torch's global one.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025.

    Example:
        >>> model = ThoughtModel(ThoughtConfig.tiny())
        >>> z = torch.randn(2, *model.config.event)
        >>> x = torch.randint(1024, (2, 65))
        >>> model(x[:, :-1], x[:, 1:], z).shape  # nats per token
        torch.Size([2, 64])
    """

    sharded_methods = ("log_likelihood", "lower", "upper_nll")
    """Methods that FSDP must treat like `forward`, as they use parameters."""

    def __init__(self, config: ThoughtConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config.decoder(), generator=generator)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Int[Tensor, "batch time"],
        z: Float[Tensor, "batch layers slots slot_width"] | None = None,
    ) -> Float[Tensor, "batch time"]:
        """Returns the negative log-likelihood of each target in nats.

        Everything that carries parameter gradients goes through here.

        Arguments:
            tokens: Inputs.
            targets: The token after each input; -100 is not scored and gives 0.
            z: Latents; None = no latents.
        """
        hidden = self.decoder(tokens, z)
        return token_nll(hidden, self.decoder.head_weight, targets)

    def log_likelihood(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Int[Tensor, "batch time"],
        z: Float[Tensor, "batch layers slots slot_width"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Returns log p(x | z) of each sequence in nats, summed over its targets."""
        nll: Tensor = self(tokens, targets, z)
        return -nll.sum(-1)

    def lower(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time width"]:
        """Returns the states below the first layer that reads latents."""
        return self.decoder.lower(tokens)

    def upper_nll(
        self,
        lower: Float[Tensor, "batch time width"],
        targets: Int[Tensor, "batch time"],
        z: Float[Tensor, "batch layers slots slot_width"],
    ) -> Float[Tensor, "batch time"]:
        """Returns `forward` from the states of `lower`."""
        return token_nll(self.decoder.upper(lower, z), self.decoder.head_weight, targets)

    def likelihood(
        self, tokens: Int[Tensor, "batch time"], targets: Int[Tensor, "batch time"]
    ) -> Callable[[Tensor], Tensor]:
        """Returns z -> log p(x | z), with what does not depend on z computed once.

        The function takes `(*samples, B, L, M, D)` and returns `(*samples, B)`. It belongs to the
        parameters as they are now and carries no gradient to them below the latents; run it under
        `lv_core.frozen(model)`.

        Arguments:
            tokens: Inputs.
            targets: Their successors; -100 is not scored.

        Raises:
            ValueError: From the function, if the latents are not those of B sequences.
        """
        with torch.no_grad():
            lower = self.lower(tokens)

        def log_likelihood(z: Tensor) -> Tensor:
            event = z.shape[-3:]
            if z.ndim < 4 or z.shape[-4] != len(tokens):
                # Another batch might divide evenly and be paired with the wrong sequences.
                raise ValueError(
                    f"z must be (*samples, batch = {len(tokens)}, layers, slots, width), got "
                    f"{tuple(z.shape)}: give each sequence its latents"
                )
            copies = z[..., 0, 0, 0].numel() // len(tokens)
            states, wanted = lower, targets
            if copies != 1:
                states, wanted = lower.repeat(copies, 1, 1), targets.repeat(copies, 1)
            nll = self.upper_nll(states, wanted, z.reshape(-1, *event))
            return -nll.sum(-1).view(z.shape[:-3])

        return log_likelihood

    @property
    def parameters_count(self) -> int:
        """Number of parameters; the token table, which is also the output layer, counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Switches dropout off inside the block; each sub-module gets its own mode back afterwards.

    Arguments:
        modules: The networks.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
