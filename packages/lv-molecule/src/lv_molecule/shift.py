"""Sampling with gradual distribution shifting: one round."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from lv_core import Kernel, Source
from lv_molecule.models.joint import MoleculeModel
from lv_molecule.oracles import Oracle
from lv_molecule.pool import Candidate, Pool
from lv_molecule.strings import SelfiesVocabulary

__all__ = ["ShiftRound", "shift_round"]


class ShiftRound(NamedTuple):
    """What one round did.

    Arguments:
        proposed: Strings that were decoded.
        invalid: Of these, how many are no molecule (or too small a one).
        repeated: How many the run had seen before.
        added: New molecules scored and added.
        values: Oracle values of the new molecules, in the order they were proposed.
        predicted: The head's prediction for the same molecules' latents; empty when unguided.
        displacement: Mean distance that the chains moved.
        exhausted: Whether the oracle's budget ended during the round.
    """

    proposed: int
    invalid: int
    repeated: int
    added: int
    values: Float64[Tensor, " added"]
    predicted: Float64[Tensor, " added"]
    displacement: float
    exhausted: bool


def shift_round(
    pool: Pool,
    model: MoleculeModel,
    vocabulary: SelfiesVocabulary,
    oracle: Oracle,
    kernel: Kernel,
    *,
    name: str,
    delta: float,
    count: int,
    size: int,
    max_length: int,
    min_length: int = 0,
    cold: bool = False,
    guided: bool = True,
    maximise: bool = True,
    chain: Source = None,
    strings: Source = None,
) -> ShiftRound:
    """Proposes molecules a step better than the pool's, scores them, and keeps the best.

    For each pool member the target is its own value plus `delta`; a chain on the latent given
    that target starts from the member's stored latent; one string is decoded from where it ends.
    The new molecules join the pool and the `size` best stay. Learning from the new pool is the
    caller's: one pass of maximum likelihood over it makes the next step reachable.

    Arguments:
        pool: Scored molecules with latents; changed in place.
        model: Prior, decoder and heads.
        vocabulary: Turns tokens into molecules.
        oracle: Scores molecules; repeats within the run cost nothing.
        kernel: Chain on the terms `prior` and `y`, such as `presets.sgds_shift()`.
        name: Property that is improved, in the pool's and the model's terms.
        delta: Step of the target, in the property's unit; negative to lower it.
        count: Number of strings to decode; members are used in turn when there are fewer.
        size: Number of members the pool keeps.
        max_length: Longest string.
        min_length: Shortest string before the end token is allowed.
        cold: Start chains from the prior's starts instead of stored latents.
        guided: Without it the property term is left out: selection and learning alone.
        maximise: Whether larger values are better.
        chain: Source of the chain's noise.
        strings: Source of the decoder's draws.

    Raises:
        ValueError: If the pool is empty or `count` is not positive.

    Source:
        Kong et al., "Molecule Design by Latent Space Energy-Based Modeling and Gradual
        Distribution Shifting", 2023, section 4. Official code pairs latents with other members'
        strings after a shuffle; here one record holds all three.
    """
    if count < 1 or not len(pool):
        raise ValueError(f"need count >= 1 and a pool with members, got {count=}, {len(pool)=}")
    device = next(model.parameters()).device
    index = torch.arange(count) % len(pool)
    start = pool.latents()[index].to(device)
    if cold:
        start = model.prior.init(count, generator=chain)
    wanted = (pool.values(name)[index] + delta).to(start)
    trace = model.infer(kernel, start, values={name: wanted} if guided else None, generator=chain)
    z = trace.state.u
    tokens = model.generate(z, max_length=max_length, min_length=min_length, generator=strings)
    smiles = vocabulary.tokens_to_smiles(tokens.cpu())
    batch = oracle(smiles)
    new = [
        s is not None and status in ("ok", "cached") and not pool.seen(s)
        for s, status in zip(batch.smiles, batch.status, strict=True)
    ]
    fresh: dict[str, int] = {}
    for i, s in enumerate(batch.smiles):
        if new[i] and s is not None:
            fresh.setdefault(s, i)
    rows = torch.tensor(list(fresh.values()), dtype=torch.int64)
    values = torch.as_tensor(batch.values, dtype=torch.float64)[rows]
    pool.add(
        Candidate.rows(
            tokens.cpu()[rows],
            list(fresh),
            {name: values.tolist()},
            z.cpu()[rows],
        )
    )
    pool.keep_top(size, name, maximise)
    predicted = values.new_zeros(0)
    if guided:
        with torch.no_grad():
            predicted = model.head(name).predict(z)[rows.to(device)].double().cpu()
    refused = sum(status in ("invalid", "empty", "failed") for status in batch.status)
    return ShiftRound(
        proposed=count,
        invalid=refused,
        repeated=count - refused - len(rows) - batch.status.count("budget"),
        added=len(rows),
        values=values,
        predicted=predicted,
        displacement=trace.displacement.mean().item(),
        exhausted="budget" in batch.status,
    )
