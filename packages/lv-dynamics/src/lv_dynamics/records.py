"""What a model returns besides tensors."""

from typing import NamedTuple

from torch import Tensor

from lv_dynamics.sequences import Sequences

__all__ = ["GeneratedSequences", "OdeLosses"]


class OdeLosses(NamedTuple):
    """What learning minimises, scalars, and what it reports, detached."""

    model: Tensor
    """minus the mean log-likelihood of a sequence: for field and emission"""
    prior: Tensor
    """contrastive loss of the prior; 0 for a Gaussian one"""
    logs: dict[str, Tensor]
    """mean log-likelihood and the prior's reports"""


class GeneratedSequences(NamedTuple):
    """Sequences drawn from the model."""

    z: Tensor
    """latents, shape `(n, D)`"""
    mean: Tensor
    """expected observations, shape `(n, T, *obs)`"""
    sequences: Sequences
    """observations, with noise"""
