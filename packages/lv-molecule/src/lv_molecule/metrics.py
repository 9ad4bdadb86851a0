"""Numbers that describe a set of generated molecules or a whole run.

Sets are compared by canonical SMILES: pass what `canonical`, `SelfiesVocabulary.tokens_to_smiles`
or an oracle returns, or the result of `canonical_set`.
"""

from collections.abc import Iterable, Sequence, Set
from functools import cache

import numpy as np
from jaxtyping import Float, Float64
from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator

from lv_molecule.strings import MoleculeError, canonical, parse_molecule

__all__ = [
    "canonical_set",
    "internal_diversity",
    "novelty",
    "top",
    "top_k_against_calls",
    "uniqueness",
    "validity",
]


def canonical_set(smiles: Iterable[str]) -> frozenset[str]:
    """Returns the canonical SMILES of some molecules; make it once for a reference set.

    Takes about 0.2 ms a molecule.

    Raises:
        MoleculeError: If a string is not a molecule; the message has its position.
    """
    found = set()
    for position, string in enumerate(smiles):
        try:
            found.add(canonical(string))
        except MoleculeError as error:
            raise MoleculeError(f"smiles[{position}]: {error}") from None
    return frozenset(found)


def validity(smiles: Sequence[str | None]) -> float:
    """Returns the share of strings that are molecules: not None and accepted by RDKit.

    Raises:
        ValueError: If there are no strings.
    """
    _require(smiles)
    valid = 0
    for string in smiles:
        if string is not None:
            try:
                parse_molecule(string)
            except MoleculeError:
                continue
            valid += 1
    return valid / len(smiles)


def uniqueness(smiles: Sequence[str | None]) -> float:
    """Returns distinct molecules / strings generated.

    Arguments:
        smiles: Canonical SMILES; None counts as generated but not as a molecule.

    Raises:
        ValueError: If there are no strings.
    """
    _require(smiles)
    return len(set(smiles) - {None}) / len(smiles)


def novelty(smiles: Sequence[str | None], reference: Set[str]) -> float:
    """Returns distinct molecules that the reference lacks / strings generated.

    Arguments:
        smiles: Canonical SMILES; None counts as generated but not as a molecule.
        reference: Canonical SMILES of the training molecules (`canonical_set`).

    Raises:
        ValueError: If there are no strings.
    """
    _require(smiles)
    return len(set(smiles) - {None} - set(reference)) / len(smiles)


def internal_diversity(smiles: Sequence[str]) -> float:
    """Returns 1 - mean Tanimoto similarity over all pairs of different positions.

    Fingerprints are Morgan, radius 2, 2048 bits. Quadratic: meant for the best hundred or a
    thousand.

    Raises:
        ValueError: If there are fewer than two molecules.
        MoleculeError: If a string is not a molecule.

    Source:
        Benhenda, "ChemGAN challenge for drug discovery", 2017. There pairs of a molecule with
        itself are included; here they are not, so that n equal molecules give 0 and n molecules
        without common bits give 1.
    """
    if len(smiles) < 2:
        raise ValueError(f"smiles must hold at least 2 molecules, got {len(smiles)}")
    prints = [_fingerprints().GetFingerprint(parse_molecule(string)) for string in smiles]
    total = 0.0
    for index in range(1, len(prints)):
        total += sum(DataStructs.BulkTanimotoSimilarity(prints[index], prints[:index]))
    return 1.0 - total / (len(prints) * (len(prints) - 1) / 2)


@cache
def _fingerprints() -> rdFingerprintGenerator.FingerprintGenerator64:
    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def top(
    values: Float[np.ndarray, " n"] | Sequence[float], k: int, *, maximise: bool = True
) -> Float64[np.ndarray, " k"]:
    """Returns the k best values, best first, without NaN; fewer if there are fewer.

    Raises:
        ValueError: If `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    found = np.asarray(values, dtype=np.float64)
    found = np.sort(found[~np.isnan(found)])
    return found[::-1][:k].copy() if maximise else found[:k]


def top_k_against_calls(
    values: Float[np.ndarray, " n"] | Sequence[float], k: int, *, maximise: bool = True
) -> Float64[np.ndarray, " n"]:
    """Returns the mean of the k best values after each call, NaN before the first value.

    Before k values are known, the mean is over those that are. The mean of the result over the
    budget is the area under the curve that benchmarks of sample efficiency report.

    Arguments:
        values: Values in the order of the calls (`Oracle.history`), NaN where a call failed.
        k: Number of best values.
        maximise: False if small values are good.

    Raises:
        ValueError: If `k` is below 1.

    Source:
        Gao et al., "Sample efficiency matters: a benchmark for practical molecular optimization",
        2022.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    sign = 1.0 if maximise else -1.0
    best: list[float] = []
    curve = np.full(len(values), np.nan)
    for call, value in enumerate(np.asarray(values, dtype=np.float64) * sign):
        if not np.isnan(value):
            best = sorted([*best, float(value)], reverse=True)[:k]
        if best:
            curve[call] = sign * sum(best) / len(best)
    return curve


def _require(smiles: Sequence[str | None]) -> None:
    if isinstance(smiles, str) or len(smiles) == 0:
        raise ValueError(f"smiles must be a list of at least one string, got {smiles!r}")
