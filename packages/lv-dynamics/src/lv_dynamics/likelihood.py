"""The log-likelihood of sequences as a function of their latents, prepared once for many calls.

B sequences, C chains, N observed rows of all sequences together, D = d + q latent numbers.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.closing import closed_times
from lv_dynamics.observation import Observation, RowScore
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import TimeGrid

if TYPE_CHECKING:
    from lv_dynamics.model import EnergyOde

__all__ = ["SequenceLikelihood"]


class SequenceLikelihood:
    """Maps latents `(*chains, B, D)` to log-likelihoods `(*chains, B)`: a sum, never a mean.

    The sum runs over observed entries of all times. Rows without an observed entry are neither
    solved for nor decoded, and no other row takes part in a solve beyond a sequence's last
    observation. Whatever does not depend on the latent (packing of rows, steps of the solver,
    masks over sigma) is computed when the object is made: make it once for many evaluations.

    Arguments:
        model: The model; its parameters are read at each call.
        sequences: The data.
        sigma: In place of the noise's own, a number or a tensor that broadcasts to an
            observation; read when the object is made.
        check: Whether a solve that diverges raises `SolveError`. Otherwise its sequence and chain
            get a log-likelihood that is not finite, which Metropolis kernels reject. Adaptive
            methods solve a batch together and raise in either case.

    Raises:
        ValueError: If observations have another shape, dtype or device than the model's, or the
            noise has no sigma to replace.

    Example:
        >>> likelihood = SequenceLikelihood(model, sequences)
        >>> likelihood(torch.randn(8, len(sequences), model.dim)).shape  # 8 chains each
    """

    def __init__(
        self,
        model: "EnergyOde",
        sequences: Sequences,
        *,
        sigma: float | Tensor | None = None,
        check: bool = False,
    ) -> None:
        _check_sequences(model, sequences)
        self.model, self.check = model, check
        packed = sequences.compact()
        self.batch, self.time = packed.times.shape
        self.observed = packed.observed.to(packed.values)
        self._times = packed.times
        real = torch.arange(self.time, device=packed.times.device) < packed.lengths[:, None]
        self._full = bool(real.all())
        self._index = real.flatten().nonzero().flatten()
        self._owner = self._index // self.time
        self.values = packed.values.flatten(0, 1)[self._index]
        self.mask = packed.mask.flatten(0, 1)[self._index]
        self._shared = bool((self._times == self._times[:1]).all())
        self._grids: dict[int, Tensor | TimeGrid] = {}
        self._score = _score_of(
            model.noise,
            self.values,
            self.mask,
            sigma,
            torch.float64 if model.config.double_sums else None,
        )

    def __call__(self, z: Float[Tensor, "*chains batch dim"]) -> Float[Tensor, "*chains batch"]:
        """Returns the log-likelihoods.

        Raises:
            ValueError: If `z` has another number of sequences or latent numbers.
            SolveError: If `check` and a solve diverges; names the sequence.
        """
        return self._per_sequence(self._score(self.outputs(z)), z)

    def outputs(self, z: Float[Tensor, "*chains batch dim"]) -> Float[Tensor, "..."]:
        """Returns what the emission gives for the observed rows, shape `(C, N, *obs)`.

        Rows are packed: sequence after sequence, those without an observed entry left out, as in
        the attributes `values` and `mask`. C is the number of chains, 1 without chain axes.
        """
        model = self.model
        if tuple(z.shape[-2:]) != (self.batch, model.dim):
            raise ValueError(
                f"z must have shape (*chains, {self.batch}, {model.dim}), one latent for each "
                f"sequence, got {tuple(z.shape)}"
            )
        chains = z.shape[:-2]
        # In the caller's axes, so that an error names chain and sequence.
        states = model.trajectory(z, self._grid(chains.numel(), z.dtype), check=self.check)
        states = states[..., : self.time, :].reshape(-1, self.batch, self.time, states.shape[-1])
        static = model.split(z)[1]
        static = None if static is None else static.reshape(-1, self.batch, static.shape[-1])
        if self._full:
            return model.emit(states, static).flatten(1, 2)
        rows = states.flatten(1, 2).index_select(1, self._index)
        own = None if static is None else static.index_select(1, self._owner)
        return model.emit(rows[:, :, None], own).squeeze(2)

    def residuals(self, z: Float[Tensor, "*chains batch dim"]) -> Float[Tensor, "..."]:
        """Returns observation minus mean for the observed rows, `(C, N, *obs)`, 0 where masked.

        With the attribute `mask` this is what `GaussianNoise.fit` takes.
        """
        means = self.model.noise.mean(self.outputs(z))
        return torch.where(self.mask, self.values - means, 0.0)

    def misfit(self, z: Float[Tensor, "*chains batch dim"]) -> Float[Tensor, "*chains batch"]:
        """Returns the mean squared residual of each sequence over its observed entries."""
        squares = self.residuals(z).square().flatten(2).sum(-1)
        return self._per_sequence(squares, z) / self.observed

    def _per_sequence(self, rows: Tensor, z: Tensor) -> Tensor:
        """Returns sums over the rows of each sequence: `(C, N)` to `(*chains, B)`."""
        if self._full:
            total = rows.reshape(-1, self.batch, self.time).sum(-1)
        else:
            total = rows.new_zeros((len(rows), self.batch)).index_add(1, self._owner, rows)
        return total.reshape(z.shape[:-1])

    def _grid(self, chains: int, dtype: torch.dtype) -> Tensor | TimeGrid:
        key = 1 if self._shared else chains
        if key not in self._grids:
            solver = replace(self.model.config.solver, check=self.check)
            times = self._times[0] if self._shared else self._times
            self._grids[key] = times
            if solver.fixed:
                closed = closed_times(times, solver)
                rows = closed[None] if self._shared else closed.repeat(key, 1)
                self._grids[key] = TimeGrid.build(rows, solver, dtype=dtype, check=False)
        return self._grids[key]


def _score_of(
    noise: Observation,
    x: Tensor,
    mask: Tensor,
    sigma: float | Tensor | None,
    dtype: torch.dtype | None,
) -> RowScore:
    own = getattr(noise, "scorer", None)
    if own is not None:
        return cast(RowScore, own(x, mask, sigma=sigma, dtype=dtype))
    if sigma is not None:
        raise ValueError(
            f"sigma must be None for {type(noise).__name__}, which has none, got {sigma}"
        )

    def score(output: Tensor) -> Tensor:
        each = torch.where(mask, noise.log_prob(x, output), 0.0)
        return each.flatten(2).sum(-1, dtype=dtype)

    return score


def _check_sequences(model: "EnergyOde", sequences: Sequences) -> None:
    observed = model.config.observed
    if sequences.obs_shape != observed:
        raise ValueError(
            f"sequences hold observations of shape {sequences.obs_shape}, the model has "
            f"observed={observed}"
        )
    values, like = sequences.values, model.anchor
    if values.dtype != like.dtype or values.device != like.device:
        raise ValueError(
            f"sequences hold {values.dtype} on {values.device}, the model {like.dtype} on "
            f"{like.device}: use sequences.to(...) or model.to(...)"
        )
