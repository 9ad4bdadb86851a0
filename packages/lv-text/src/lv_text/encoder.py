"""An encoder of the posterior: for the amortised baseline, and as a start of local fits."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lv_core import DiagonalGaussian
from lv_core.nn import Decoder, DecoderConfig
from lv_text.config import ThoughtConfig

__all__ = ["ThoughtEncoder"]

IGNORED = -100


class ThoughtEncoder(nn.Module):
    """Maps a sequence to q(z | x) = N(mean(x), scale(x)^2), as in a variational autoencoder.

    A Transformer reads the tokens, one learned query for each latent vector attends to all its
    states, and a linear layer gives mean and log scale. It starts at the prior.

    Arguments:
        config: Sizes of the model whose latents are encoded.
        layers: Blocks; None = as many as the decoder.
        generator: Source of the initial weights; None = torch's global one.

    Source:
        The baseline of Kong et al., "Latent Thought Models with Variational Bayes Inference-Time
        Computation", 2025; its architecture is not published, this one is ours. As a start of
        local fits: Kim et al., "Semi-amortized variational autoencoders", 2018.
    """

    def __init__(
        self,
        config: ThoughtConfig,
        *,
        layers: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        count, slots, width = config.event
        self.reader = Decoder(
            DecoderConfig(
                vocabulary=config.vocabulary,
                width=config.width,
                layers=config.layers if layers is None else layers,
                heads=config.heads,
                max_length=config.length + 1,  # the first input and all targets
                outputs=None,
            ),
            generator=generator,
        )
        self.queries = nn.Parameter(torch.empty(count * slots, config.width))
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.norm = nn.RMSNorm(config.width)
        self.out = nn.Linear(config.width, 2 * width)
        with torch.no_grad():
            self.queries.normal_(generator=generator)
            self.key_value.weight.normal_(0.0, 0.02, generator=generator)
            self.out.weight.zero_()  # begins at the prior
            self.out.bias.zero_()

    def forward(
        self, tokens: Int[Tensor, "batch time"], targets: Int[Tensor, "batch time"]
    ) -> DiagonalGaussian:
        """Returns the posteriors, event shape `config.event`.

        Arguments:
            tokens: Inputs.
            targets: Their successors; where they are -100 no latent reads the state. Padding at
                the end therefore leaves no trace; what is masked before scored tokens is their
                context, as it is for the decoder.
        """
        # The last target is part of the sequence, too.
        seen = torch.cat((tokens[:, :1], targets.where(targets != IGNORED, tokens)), 1)
        hidden = self.reader(seen)
        key, value = self.key_value(hidden).chunk(2, -1)
        heads = self.config.heads
        q, k, v = (
            x.unflatten(-1, (heads, -1)).transpose(-2, -3)
            for x in (self.queries.expand(len(tokens), -1, -1), key, value)
        )
        kept = torch.cat((targets[:, :1] != IGNORED, targets != IGNORED), 1)
        pooled = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=kept[:, None, None])
        out = self.out(self.norm(pooled.transpose(1, 2).flatten(2)))
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        mean, log_scale = out.unflatten(1, self.config.event[:2]).chunk(2, -1)
        return DiagonalGaussian(mean, log_scale.clamp(max=1.0), event_ndim=3)

    def __call__(  # narrows the type of nn.Module's
        self, tokens: Tensor, targets: Tensor
    ) -> DiagonalGaussian:
        """Calls `forward`."""
        found: DiagonalGaussian = super().__call__(tokens, targets)
        return found
