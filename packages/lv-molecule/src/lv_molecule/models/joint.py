"""The joint model of a molecule's string and its properties given a latent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lv_core import Kernel, Source, Sum, Trace, frozen
from lv_molecule.models.lstm import LstmDecoder, PackedTokens
from lv_priors import EnergyPrior, PropertyHead, contrastive_loss

__all__ = ["Losses", "MoleculeModel"]


class Losses(NamedTuple):
    """Losses of one batch; their sum trains all parts, which share no parameter.

    `likelihood` is the mean negative log-likelihood of a string in nats, `properties` the mean of
    `precision * squared error` summed over properties, `prior` the contrastive loss, `gap` the
    mean tilt of posterior minus prior samples (detached).
    """

    likelihood: Tensor
    properties: Tensor
    prior: Tensor
    gap: Tensor


class MoleculeModel(nn.Module):
    """p(z, x, y) = p(z) p(x | z) p(y | z): an energy-based prior, a decoder, property heads.

    Arguments:
        prior: The prior over latents.
        decoder: p(x | z) over token sequences.
        heads: Property name to p(y | z); may be empty.
        inference_mode: Whether dropout acts in the likelihood during posterior sampling: `train`
            as SGDS's code does, `eval` for a posterior that is a fixed density (and faster).

    Source:
        Kong et al., "Molecule Design by Latent Space Energy-Based Modeling and Gradual
        Distribution Shifting", 2023, section 3.
    """

    sharded_methods = ("target", "infer", "generate")

    def __init__(
        self,
        prior: EnergyPrior,
        decoder: LstmDecoder,
        heads: Mapping[str, PropertyHead],
        *,
        inference_mode: Literal["eval", "train"] = "eval",
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.heads = nn.ModuleDict(heads)
        self.inference_mode = inference_mode

    def head(self, name: str) -> PropertyHead:
        """Returns the head of a property.

        Raises:
            ValueError: If there is none; the message lists those that exist.
        """
        if name not in self.heads:
            raise ValueError(f"unknown property {name!r}; there are: {', '.join(self.heads)}")
        head = self.heads[name]
        assert isinstance(head, PropertyHead)
        return head

    def target(
        self,
        *,
        tokens: Int64[Tensor, "B T"] | PackedTokens | None = None,
        values: Mapping[str, Float[Tensor, " B"]] | None = None,
    ) -> Sum:
        """Returns the log density of z given what is known, as a sum of named terms.

        Arguments:
            tokens: Strings, adding the term `x`; None leaves them unknown.
            values: Property values in their own units, adding the term `y`; None likewise.
        """
        terms = {"prior": self.prior.log_density}
        if tokens is not None:
            packed = tokens if isinstance(tokens, PackedTokens) else self.decoder.pack(tokens)
            terms["x"] = lambda u: self.decoder.log_likelihood(packed, self.prior.push(u))
        if values:
            fits = [(self.head(name), y) for name, y in values.items()]
            terms["y"] = lambda u: torch.stack(
                [head.log_prob(y, self.prior.push(u)) for head, y in fits]
            ).sum(0)
        return Sum(terms)

    def infer(
        self,
        kernel: Kernel,
        u: Float[Tensor, "B D"],
        *,
        tokens: Int64[Tensor, "B T"] | None = None,
        values: Mapping[str, Float[Tensor, " B"]] | None = None,
        generator: Source = None,
    ) -> Trace:
        """Runs a kernel on the density of z given strings, property values, or both.

        Arguments:
            kernel: Such as `lv_priors.presets.sgds_posterior()`.
            u: Starts.
            tokens: Strings, or None.
            values: Property values in their own units, or None.
            generator: Source of the chain's noise.

        Returns:
            The run; the latents are `trace.state.u`.
        """
        with frozen(self), self._inference():
            return kernel.run(self.target(tokens=tokens, values=values), u, generator=generator)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        training = self.decoder.training
        self.decoder.train(self.inference_mode == "train")
        try:
            yield
        finally:
            self.decoder.train(training)

    def generate(
        self,
        z: Float[Tensor, "B D"],
        *,
        max_length: int,
        min_length: int = 0,
        temperature: float = 1.0,
        generator: Source = None,
    ) -> Int64[Tensor, "B max_length"]:
        """Returns one string per latent; see `LstmDecoder.sample`."""
        return self.decoder.sample(
            self.prior.push(z),
            max_length=max_length,
            min_length=min_length,
            temperature=temperature,
            generator=generator,
        )

    def forward(
        self,
        tokens: Int64[Tensor, "B T"],
        values: Mapping[str, Float[Tensor, " B"]],
        u_posterior: Float[Tensor, "B D"],
        u_prior: Float[Tensor, "M D"],
    ) -> Losses:
        """Returns what learning minimises, given detached samples of posterior and prior.

        Everything that carries parameter gradients happens here, once per update, as wrappers
        for several processes need.

        Arguments:
            tokens: Strings.
            values: Property values in their own units, for any of the heads.
            u_posterior: Posterior samples.
            u_prior: Prior samples.
        """
        z = self.prior.push(u_posterior)
        likelihood = self.decoder(tokens, z).mean()
        errors = [
            self.head(n).precision * self.head(n).squared_error(y, z) for n, y in values.items()
        ]
        properties = torch.stack(errors).sum(0).mean() if errors else likelihood.new_zeros(())
        prior = contrastive_loss(
            self.prior.tilt, u_posterior, u_prior, energy_l2=self.prior.energy_l2
        )
        return Losses(likelihood, properties, prior.loss, prior.logs["gap"])
