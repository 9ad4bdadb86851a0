"""Molecule strings, oracles, pools and latent-variable models of molecules."""

from importlib.metadata import version

from lv_molecule.generator import recombine
from lv_molecule.metrics import (
    canonical_set,
    internal_diversity,
    novelty,
    top,
    top_k_against_calls,
    uniqueness,
    validity,
)
from lv_molecule.models import Losses, LstmDecoder, MoleculeModel, PackedTokens
from lv_molecule.oracles import (
    PROPERTIES,
    Oracle,
    OracleBatch,
    OracleError,
    log_p,
    penalised_logp_normalised,
    penalised_logp_unnormalised,
    qed,
    sa_score,
)
from lv_molecule.pool import Candidate, Pool, ScoredMolecule
from lv_molecule.shift import ShiftRound, shift_round
from lv_molecule.strings import (
    MoleculeError,
    SelfiesVocabulary,
    canonical,
    selfies_to_smiles,
    smiles_to_selfies,
)

__version__ = version("lv-molecule")

__all__ = [
    "PROPERTIES",
    "Candidate",
    "Losses",
    "LstmDecoder",
    "MoleculeError",
    "MoleculeModel",
    "Oracle",
    "OracleBatch",
    "OracleError",
    "PackedTokens",
    "Pool",
    "ScoredMolecule",
    "SelfiesVocabulary",
    "ShiftRound",
    "canonical",
    "canonical_set",
    "internal_diversity",
    "log_p",
    "novelty",
    "penalised_logp_normalised",
    "penalised_logp_unnormalised",
    "qed",
    "recombine",
    "sa_score",
    "selfies_to_smiles",
    "shift_round",
    "smiles_to_selfies",
    "top",
    "top_k_against_calls",
    "uniqueness",
    "validity",
]
