"""Molecules made by recombining fragments: data of the real kind without a download.

Fragments are written by hand as SMILES with numbered dummy atoms in the notation of BRICS: the
number says what kind of atom carries the open bond, and the rules say which kinds may be joined.
"""

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcExactMolWt

from lv_molecule.oracles.properties import log_p
from lv_molecule.strings import parse_molecule

__all__ = ["recombine"]

# More are possible; this many were made once for seed 0.
LARGEST = 100_000

# Limits of drug-like data sets; 72 tokens is the longest SELFIES of ZINC250k.
MASS = (150.0, 500.0)
MAX_LOG_P = 4.5
MAX_TOKENS = 72

# Kinds of atoms that may be joined by a single bond. 1 acyl C, 3 ether O, 4 alkyl C at a
# heteroatom, 5 amine N, 6 acyl C at a ring, 8 alkyl C at a ring, 9 aromatic n, 10 lactam N,
# 11 thioether S, 12 sulfonyl S, 14 aromatic c beside a heteroatom, 15 ring C, 16 aromatic c.
# Source: Degen et al., "On the art of compiling and using drug-like chemical fragment spaces",
# 2008 (BRICS). Left out: olefins (7) and ring carbons beside a heteroatom (2, 13), which make
# acetals with our ethers.
PAIRS = (
    *((1, other) for other in (3, 5)),
    *((3, other) for other in (4, 14, 15, 16)),
    *((4, other) for other in (5, 11)),
    *((5, other) for other in (12, 14, 15, 16)),
    *((6, other) for other in (14, 15, 16)),
    *((8, other) for other in (9, 10, 14, 15, 16)),
    *((9, other) for other in (15, 16)),
    *((10, other) for other in (15, 16)),
    *((11, other) for other in (14, 15, 16)),
    *((14, other) for other in (14, 15, 16)),
    *((15, other) for other in (16,)),
    *((16, other) for other in (16,)),
)

# Separated by white space. A dummy atom stands first, last or in parentheses of its own: `_parse`
# relies on it.
CORES = """
[16*]c1ccc([16*])cc1 [16*]c1cccc([16*])c1 [16*]c1ccccc1[16*] [16*]c1ccc([16*])c(F)c1
[16*]c1ccc([16*])c(Cl)c1 [16*]c1ccc([16*])c(OC)c1 [16*]c1cc([16*])cc([16*])c1
[16*]c1ccc([16*])c([16*])c1 [14*]c1ccc([16*])cn1 [16*]c1cncc([16*])c1 [14*]c1nccc([14*])n1
[14*]c1ncc([16*])cn1 [14*]c1cc([14*])nc(C)n1 [14*]c1nc([14*])cs1 [14*]c1ncc([14*])s1
[14*]c1ccc([14*])s1 [14*]c1ccc([14*])o1 [14*]c1nnc([14*])o1 [14*]c1noc([14*])n1
[14*]c1nnc([14*])s1 [9*]n1cc([16*])cn1 [9*]n1ccc([14*])n1 [9*]n1cc([14*])nn1
[9*]n1nc([14*])cc1C [9*]n1ccc2cc([16*])ccc21 [9*]n1c([14*])nc2ccccc21 [14*]c1ncnc2ccccc12
[14*]c1nc2ccccc2c([16*])c1 [14*]c1cc([14*])on1 [14*]c1nc2ccc([16*])cc2s1
[14*]c1nc2ccc([16*])cc2o1 [15*]C1CCC([15*])CC1 [5*]N1CCN([5*])CC1 [5*]N1CCC([15*])CC1
[5*]N1CCC([15*])C1 [5*]N1CC([15*])C1 [5*]NC1CCN([5*])CC1 [5*]N1CCC[C@H]1C([1*])=O
[1*]C(=O)[C@H](C)N[5*] [1*]C(=O)[C@@H](Cc1ccccc1)N[5*] [5*]N1CCC(C([1*])=O)CC1
[10*]N1CC([15*])CC1=O [5*]N1CCc2cc([16*])ccc2C1 [16*]c1ccc2c(c1)OCCN2[5*]
"""

LINKS = """
[1*]C([6*])=O [1*]C([1*])=O [5*]N[5*] [5*]N([5*])C [3*]O[3*] [11*]S[11*] [8*]C[4*] [8*]CC[4*]
[4*]CC[4*] [4*]CCC[4*] [8*]C(C)[4*] [8*]C[8*] [8*]CC[8*] [1*]C(=O)C[4*] [1*]C(=O)C[8*]
[1*]C(=O)CC[8*] [12*]S(=O)(=O)c1ccc([16*])cc1 [12*]S(=O)(=O)c1cccc([16*])c1
"""

CAPS = """
[16*]c1ccccc1 [16*]c1ccc(F)cc1 [16*]c1ccc(Cl)cc1 [16*]c1cccc(Cl)c1 [16*]c1ccc(Br)cc1
[16*]c1cccc(C(F)(F)F)c1 [16*]c1ccc(OC)cc1 [16*]c1ccccc1OC [16*]c1ccc(C#N)cc1 [16*]c1ccc(C)cc1
[16*]c1cc(C)cc(C)c1 [16*]c1ccccc1F [16*]c1ccc(F)cc1F [16*]c1ccc(Cl)c(Cl)c1 [16*]c1cccc2ccccc12
[16*]c1cccc([N+](=O)[O-])c1 [16*]c1ccc2c(c1)OCO2 [16*]c1ccc(C(C)(C)C)cc1 [16*]c1ccc(O)cc1
[16*]c1ccc(C(=O)O)cc1 [16*]c1ccc(S(N)(=O)=O)cc1 [16*]c1ccc(NC(C)=O)cc1 [16*]c1cccnc1
[16*]c1ccncc1 [16*]c1c[nH]c2ccccc12 [16*]c1cnn(C)c1 [14*]c1ccccn1 [14*]c1cccs1 [14*]c1ccco1
[14*]c1nccs1 [14*]c1nc2ccccc2s1 [14*]c1ncccn1 [14*]c1nc2ccccc2[nH]1 [14*]c1cc(C)on1
[14*]c1ccc2ccccc2n1 [14*]c1nnc(C)s1 [9*]n1cccn1 [9*]n1ccnc1 [9*]n1cncn1 [9*]n1ccc2ccccc21
[9*]n1nc(C)cc1C [10*]N1CCCC1=O [10*]N1CCOC1=O [10*]N1C(=O)c2ccccc2C1=O [5*]N1CCOCC1
[5*]N1CCCCC1 [5*]N1CCCC1 [5*]N1CCN(C)CC1 [5*]N(C)C [5*]NC [5*]N [5*]N1CCC(C)CC1 [5*]N1CCCCCC1
[5*]N1CCc2ccccc2C1 [5*]N1CCC[C@@H]1CO [5*]N(CC)CC [3*]O [3*]OC [8*]CC [8*]C(C)C [8*]CO
[8*]CC#N [8*]CCCC [8*]C(C)(C)C [8*]CC(=O)O [8*]CC(N)=O [8*]CN(C)C [8*]CCCCCC [4*]CC [4*]CCC
[4*]CC(C)C [4*]CCOC [4*]CC=C [4*]CC(F)(F)F [4*]CCN(C)C [4*]CC(N)=O [4*]C[C@H]1CCCO1
[4*]CCCCCC [1*]C(C)=O [1*]C(=O)CC [1*]C(=O)C1CC1 [1*]C(=O)C(C)C [1*]C(N)=O [1*]C(=O)OC(C)(C)C
[1*]C(=O)CO [6*]C(C)=O [6*]C(N)=O [6*]C(=O)O [6*]C(=O)OC [6*]C(=O)OCC [12*]S(C)(=O)=O
[12*]S(=O)(=O)c1ccc(C)cc1 [11*]SC [11*]SCC [15*]C1CC1 [15*]C1CCCC1 [15*]C1CCCCC1 [15*]C1CCOCC1
[5*]N1C[C@@H]2CC[C@H](C1)O2 [5*]N1CC2(COC2)C1 [15*]C1CC2CCC(C1)N2C [1*]C(=O)[C@@H](N)CO
[5*]N1CC[C@H](O)C1 [5*]N1C[C@H](O)[C@@H](O)C1 [4*]C[C@H](O)CO [5*]N[C@H](CO)C(=O)O
[1*]C(=O)[C@H](N)CC(=O)O [5*]N1CCNC(=O)C1 [5*]NC1CCS(=O)(=O)C1 [5*]N[C@@H](C)C(N)=O
"""

# What the rules allow and a chemist would not draw: acyclic imides and biurets, hemiaminals and
# acetals, bonds between two heteroatoms, carbonic and carbamic acids, N-acyl anhydrides.
UNLIKELY = (
    "[#6](=O)-!@[NX3]-!@[#6]=O",
    "[N,n,O,S;X2,X3;!$(*C=*)]-!@[CX4;!$(C(F)F)]-!@[N,n,O,S;X2,X3]",
    "[NX3,OX2,SX2;!+]-[NX3,OX2,SX2;!+;!$(N-S(=O)=O)]",
    "[NX3][CX3](=O)[OX2H1,OX1-]",
    "[CX3](=O)[OX2][CX3]=O",
    "[NX3]([CX3]=O)S(=O)=O",
)


class _Fragment(NamedTuple):
    """Text around the open bonds, their kinds in order, heavy atoms, and share of logP."""

    pieces: tuple[str, ...]
    kinds: tuple[int, ...]
    heavy: int
    log_p: float


_LEADING = re.compile(r"^\[(\d+)\*\](\[[^\]]+\]|Br|Cl|[A-Za-z])(.*)$")
_INNER = re.compile(r"\(\[(\d+)\*\]\)|\[(\d+)\*\]")


def _parse(smiles: str) -> _Fragment:
    """Splits a fragment at its dummy atoms.

    A bond between two fragments is written as a ring closure with one number on both sides, as in
    `C%11.O%11`, so that a molecule is assembled as text and read by RDKit once.
    """
    found = _LEADING.match(smiles)
    if found is None:
        raise ValueError(f"a fragment must begin with a dummy atom, got {smiles!r}")
    kind, atom, rest = found.groups()
    # An odd number of groups: text, kind, kind, text, ...
    parts = _INNER.split(rest)
    texts = [atom, *parts[::3]]
    kinds = [int(kind), *(int(a or b) for a, b in zip(parts[1::3], parts[2::3], strict=True))]
    heavy = parse_molecule(smiles).GetNumHeavyAtoms() - len(kinds)
    # logP is nearly additive: with 0.3 for each closing methyl group the sum over fragments
    # correlates 0.96 with the value of the molecule.
    share = log_p("(C)".join(texts)) - 0.3 * len(kinds)
    return _Fragment(tuple(texts), tuple(kinds), heavy, share)


class _Library(NamedTuple):
    cores: Sequence[_Fragment]
    # For each kind of open bond: fragments with the open bond by which they may be joined to it.
    links: Mapping[int, Sequence[tuple[_Fragment, int]]]
    caps: Mapping[int, Sequence[tuple[_Fragment, int]]]


@cache
def _library() -> _Library:
    partners: dict[int, set[int]] = {}
    for a, b in PAIRS:
        partners.setdefault(a, set()).add(b)
        partners.setdefault(b, set()).add(a)

    def by_kind(fragments: Sequence[str]) -> dict[int, list[tuple[_Fragment, int]]]:
        parsed = [_parse(smiles) for smiles in fragments]
        return {
            kind: [
                (fragment, site)
                for fragment in parsed
                for site, other in enumerate(fragment.kinds)
                if other in allowed
            ]
            for kind, allowed in partners.items()
        }

    cores = [_parse(smiles) for smiles in CORES.split()]
    # Links count several times: rings joined directly make rods that are too flat and lipophilic.
    grow = [*LINKS.split() * 4, *CORES.split()]
    return _Library(cores, by_kind(grow), by_kind(CAPS.split()))


@cache
def _unlikely() -> tuple[Chem.Mol, ...]:
    return tuple(Chem.MolFromSmarts(pattern) for pattern in UNLIKELY)


def _assemble(draw: random.Random) -> tuple[str, int, float]:
    """Returns the text of one random molecule, its heavy atoms and its estimated logP."""
    library = _library()
    core = library.cores[draw.randrange(len(library.cores))]
    goal = draw.uniform(8.0, 24.0)
    heavy, share = core.heavy, core.log_p
    bonds = 10  # %10 is the first ring closure of two digits
    texts: list[str] = []
    # Fragments to be written, with the closure number of the bond that is already decided.
    pending: list[tuple[_Fragment, int | None, int]] = [(core, None, 0)]
    while pending:
        fragment, joined, number = pending.pop()
        text = fragment.pieces[0]
        for site, kind in enumerate(fragment.kinds):
            if site == joined:
                closure = number
            else:
                closure, bonds = bonds, bonds + 1
                grow = heavy < goal and draw.random() < 0.6
                choices = (library.links if grow else library.caps)[kind]
                partner, at = choices[draw.randrange(len(choices))]
                heavy, share = heavy + partner.heavy, share + partner.log_p
                pending.append((partner, at, closure))
            text += f"%{closure}{fragment.pieces[site + 1]}"
        texts.append(text)
    return ".".join(texts), heavy, share


def _accept(molecule: Chem.Mol) -> bool:
    if not MASS[0] <= CalcExactMolWt(molecule) <= MASS[1]:
        return False
    return not any(molecule.HasSubstructMatch(pattern) for pattern in _unlikely())


def _most_tokens(molecule: Chem.Mol, smiles: str) -> int:
    """Returns a bound on the SELFIES length: a branch or ring takes up to three symbols."""
    rings = molecule.GetNumBonds() - molecule.GetNumAtoms() + 1
    return molecule.GetNumAtoms() + 3 * (rings + smiles.count("("))


def recombine(n: int = 8000, *, seed: int = 0) -> tuple[str, ...]:
    """Returns distinct drug-like molecules as canonical SMILES, some with stereo centers.

    Mass 150 to 500, logP mostly below 5, at most 72 SELFIES tokens. Equal arguments give equal
    molecules in every process (with one version of RDKit), and a smaller `n` gives the first of a
    larger one. About 1 ms a molecule. The molecules are plausible, not known: use them for
    examples, tests and trial runs, not for conclusions about chemistry.

    Arguments:
        n: Number of molecules, 1 to 100,000.
        seed: Chooses the molecules.

    Raises:
        ValueError: If `n` is out of range.

    Source:
        The rules for joining are those of BRICS (Degen et al., 2008); the fragments are our own.
    """
    if not 1 <= n <= LARGEST:
        raise ValueError(f"n must be from 1 to {LARGEST}, got {n}")
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        text, heavy, share = _assemble(draw)
        # Most refusals are decided before a molecule is built.
        if not 10 <= heavy <= 36 or share > MAX_LOG_P:
            continue
        molecule = parse_molecule(text)
        smiles = Chem.MolToSmiles(molecule)
        if smiles in found or _most_tokens(molecule, smiles) > MAX_TOKENS:
            continue
        if _accept(molecule):
            found[smiles] = None
    return tuple(found)
