"""Properties that RDKit computes in milliseconds, on the scales of the literature.

The two scales of penalised logP differ by about one unit on good molecules and published tables
mix them, so each function carries its scale in its name.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rdkit import Chem
from rdkit.Chem import QED
from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors
from rdkit.Contrib.SA_Score import sascorer

from lv_molecule.strings import MoleculeError, parse_molecule

__all__ = [
    "PROPERTIES",
    "log_p",
    "penalised_logp_normalised",
    "penalised_logp_unnormalised",
    "qed",
    "sa_score",
]


def _molecule(molecule: str | Chem.Mol) -> Chem.Mol:
    if isinstance(molecule, Chem.Mol):
        if molecule.GetNumAtoms() == 0:
            raise MoleculeError("the molecule holds no atoms")
        return molecule
    return parse_molecule(molecule)


def _ring_sizes(molecule: Chem.Mol) -> list[int]:
    return [len(ring) for ring in molecule.GetRingInfo().AtomRings()]


def qed(molecule: str | Chem.Mol) -> float:
    """Returns the quantitative estimate of drug-likeness, in [0, 1], larger is better.

    Raises:
        MoleculeError: If the molecule is empty or RDKit refuses the string.

    Source:
        Bickerton et al., "Quantifying the chemical beauty of drugs", 2012 (RDKit `QED.qed`).
    """
    return float(QED.qed(_molecule(molecule)))  # type: ignore[no-untyped-call]


def sa_score(molecule: str | Chem.Mol) -> float:
    """Returns the synthetic accessibility score, in [1, 10], smaller is easier to make.

    Values differ in the third digit between RDKit versions.

    Raises:
        MoleculeError: If the molecule is empty or RDKit refuses the string.

    Source:
        Ertl and Schuffenhauer, "Estimation of synthetic accessibility score of drug-like
        molecules", 2009 (RDKit Contrib `sascorer`).
    """
    return float(sascorer.calculateScore(_molecule(molecule)))


def log_p(molecule: str | Chem.Mol) -> float:
    """Returns the octanol-water partition coefficient, decimal logarithm.

    Raises:
        MoleculeError: If the molecule is empty or RDKit refuses the string.

    Source:
        Wildman and Crippen, "Prediction of physicochemical parameters by atomic contributions",
        1999 (RDKit).
    """
    return float(CalcCrippenDescriptors(_molecule(molecule))[0])


def penalised_logp_unnormalised(molecule: str | Chem.Mol) -> float:
    """Returns logP - SA - (number of rings of more than six atoms).

    The scale of LIMO, SGDS and latent prompt transformers. Over ZINC250k: mean -0.63, standard
    deviation 2.02, maximum 5.07. Rings are RDKit's smallest set of smallest rings.

    Raises:
        MoleculeError: If the molecule is empty or RDKit refuses the string.

    Source:
        Eckmann et al., "LIMO: Latent Inceptionism for Targeted Molecule Generation", 2022.
    """
    molecule = _molecule(molecule)
    large = sum(size > 6 for size in _ring_sizes(molecule))
    return log_p(molecule) - sa_score(molecule) - large


def penalised_logp_normalised(molecule: str | Chem.Mol) -> float:
    """Returns the sum of logP, -SA and a ring penalty, each standardised over ZINC250k.

    (logP - 2.457)/1.434 + (-SA + 3.053)/0.834 + (cycle + 0.0486)/0.286, where
    cycle = -max(0, largest ring - 6). The scale of JT-VAE, GCPN and MolDQN. The reference takes
    the largest ring from a networkx cycle basis; we take it from RDKit's smallest set of smallest
    rings, where the largest ring is never larger and does not depend on the order of atoms.

    Raises:
        MoleculeError: If the molecule is empty or RDKit refuses the string.

    Source:
        Jin et al., "Junction Tree Variational Autoencoder", 2018; You et al., "Graph Convolutional
        Policy Network", 2018, whose code gives the constants.
    """
    molecule = _molecule(molecule)
    cycle = -max(0, max(_ring_sizes(molecule), default=0) - 6)
    return (
        (log_p(molecule) - 2.4570953396190123) / 1.434324401111988
        + (-sa_score(molecule) + 3.0525811293166134) / 0.8335207024513095
        + (cycle + 0.0485696876403053) / 0.2860212110245455
    )


PROPERTIES: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {
        "qed": qed,
        "sa_score": sa_score,
        "log_p": log_p,
        "penalised_logp_unnormalised": penalised_logp_unnormalised,
        "penalised_logp_normalised": penalised_logp_normalised,
    }
)
