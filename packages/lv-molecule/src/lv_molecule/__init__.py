"""Molecule strings, oracles, pools and latent-variable models of molecules."""

from importlib.metadata import version

from lv_molecule.oracles import (
    PROPERTIES,
    log_p,
    penalised_logp_normalised,
    penalised_logp_unnormalised,
    qed,
    sa_score,
)
from lv_molecule.pool import Candidate, Pool, ScoredMolecule
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
    "MoleculeError",
    "Pool",
    "ScoredMolecule",
    "SelfiesVocabulary",
    "canonical",
    "log_p",
    "penalised_logp_normalised",
    "penalised_logp_unnormalised",
    "qed",
    "sa_score",
    "selfies_to_smiles",
    "smiles_to_selfies",
]
