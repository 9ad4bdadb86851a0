"""Molecule strings: SMILES, SELFIES and token ids.

Shapes: N strings, T tokens of a string (fixed length, padded with `nop`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import selfies
import torch
from jaxtyping import Int64
from rdkit import Chem, rdBase
from torch import Tensor

__all__ = [
    "MoleculeError",
    "SelfiesVocabulary",
    "canonical",
    "selfies_to_smiles",
    "smiles_to_selfies",
]

NOP = "[nop]"
START = "[start]"


class MoleculeError(ValueError):
    """A string is not a molecule; the message is one line with the string and the reason."""


def parse_molecule(smiles: str) -> Chem.Mol:
    """Returns the sanitised RDKit molecule of a SMILES string.

    Arguments:
        smiles: A SMILES string; several fragments are allowed.

    Raises:
        MoleculeError: If the string is empty, has a syntax error or an impossible valence.
    """
    _refuse_empty(smiles)
    # RDKit writes every refused string to stderr; a sampler makes thousands of them.
    with rdBase.BlockLogs():
        molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
        if molecule is None:
            raise MoleculeError(f"RDKit cannot parse the SMILES {smiles!r}: {_reason(smiles)}")
    return molecule


def _refuse_empty(smiles: str) -> None:
    # None comes from `tokens_to_smiles` and deserves the same sentence.
    if not smiles or not smiles.strip():
        raise MoleculeError(f"the SMILES {smiles!r} is empty; a molecule needs at least one atom")


def _reason(smiles: str) -> str:
    """Returns why RDKit refuses a string; logging is blocked by the caller."""
    molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        return "the syntax is wrong; check ring closures and brackets"
    try:
        Chem.SanitizeMol(molecule)
    except Exception as error:  # RDKit's sanitisation errors share no narrower public base
        return f"{_one_line(error)}; check valences and aromatic rings"
    return "unknown reason; check ring closures and valences"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def canonical(smiles: str) -> str:
    """Returns RDKit's canonical SMILES, stereo included.

    The spelling identifies a molecule within one version of RDKit, not across versions.

    Arguments:
        smiles: A SMILES string; several fragments are allowed.

    Raises:
        MoleculeError: If RDKit refuses the string or it is empty.
    """
    return Chem.MolToSmiles(parse_molecule(smiles))


def smiles_to_selfies(smiles: str, *, isomeric: bool = True) -> str:
    """Returns the SELFIES string of a SMILES string.

    Atoms keep the order of the given spelling, so two spellings of one molecule give two
    SELFIES; encode `canonical(smiles)` where that matters.

    Arguments:
        smiles: A SMILES string of one fragment.
        isomeric: False strips stereo marks first and writes the canonical atom order. Stereo
            tokens make about half of the symbols of ZINC250k and change neither logP nor QED.

    Raises:
        MoleculeError: If the string is empty, not a molecule within the valences of `selfies`, or
            has several fragments.
    """
    _refuse_empty(smiles)
    if "." in smiles:
        fragments = smiles.count(".") + 1
        raise MoleculeError(
            f"the SMILES {smiles!r} holds {fragments} fragments; keep one, for example the largest"
        )
    if not isomeric:
        smiles = Chem.MolToSmiles(parse_molecule(smiles), isomericSmiles=False)
    try:
        return str(selfies.encoder(smiles))
    except selfies.EncoderError as error:
        # The chemistry toolkit names the fault more precisely, where it finds one too.
        parse_molecule(smiles)
        reason = _one_line(error)
        raise MoleculeError(f"selfies cannot encode the SMILES {smiles!r}: {reason}") from None


def selfies_to_smiles(string: str) -> str:
    """Returns the canonical SMILES of a SELFIES string.

    Arguments:
        string: SELFIES symbols in brackets; `[nop]` is skipped.

    Raises:
        MoleculeError: If a symbol is unknown to `selfies`, no atom results, or RDKit refuses it.
    """
    try:
        smiles = str(selfies.decoder(string))
    except selfies.DecoderError as error:
        reason = _one_line(error)
        raise MoleculeError(f"selfies cannot decode {string!r}: {reason}") from None
    if not smiles:
        raise MoleculeError(f"the SELFIES {string!r} is an empty molecule")
    return canonical(smiles)


@dataclass(frozen=True)
class SelfiesVocabulary:
    """The symbols that token ids stand for.

    Ids 0 to S-1 are the symbols in sorted order, S is `nop` (padding and end mark), S + 1 is
    `start`, which begins the input of a decoder and is never generated.

    Arguments:
        symbols: SELFIES symbols in any order, without `[nop]` and without repeats. Kept sorted.

    Raises:
        ValueError: If there are no symbols, a symbol is repeated, lacks its brackets or is
            reserved.

    Source:
        Krenn et al., "Self-referencing embedded strings (SELFIES)", 2020. Kong et al., "Molecule
        Design by Latent Space Energy-Based Modeling and Gradual Distribution Shifting", 2023, use
        one symbol as padding and end mark.

    Example:
        >>> vocabulary = SelfiesVocabulary.from_selfies(["[C][C][O]"])
        >>> vocabulary.encode(["[O][C]"], length=4)
        tensor([[1, 0, 2, 2]])
    """

    symbols: Sequence[str]

    def __post_init__(self) -> None:
        symbols = tuple(sorted(self.symbols))
        if not symbols:
            raise ValueError("symbols must hold at least one symbol, got none")
        for symbol in symbols:
            inner = symbol[1:-1]
            if symbol in (NOP, START):
                raise ValueError(f"symbols must not hold {symbol}, which the vocabulary adds")
            if symbol != f"[{inner}]" or not inner or "[" in inner or "]" in inner:
                raise ValueError(f"symbols must look like '[C]', got {symbol!r}")
        if len(set(symbols)) != len(symbols):
            raise ValueError(f"symbols must be distinct, got {list(symbols)}")
        object.__setattr__(self, "symbols", symbols)

    @classmethod
    def from_selfies(cls, strings: Iterable[str]) -> "SelfiesVocabulary":
        """Returns the vocabulary of all symbols in some SELFIES strings; `[nop]` is left out.

        Raises:
            ValueError: If a string is not a chain of symbols in brackets.
        """
        found = set()
        for position, string in enumerate(strings):
            _check_brackets(string, position)
            found.update(string[1:-1].split("]["))
        return cls(tuple({f"[{inner}]" for inner in found if inner} - {NOP}))

    @property
    def nop(self) -> int:
        """Id of the padding and end mark."""
        return len(self.symbols)

    @property
    def start(self) -> int:
        """Id of the start mark, which is never generated."""
        return len(self.symbols) + 1

    def __len__(self) -> int:
        return len(self.symbols) + 2

    @cached_property
    def _index(self) -> dict[str, int]:
        # Without brackets: one str.split is five times faster than a symbol iterator.
        return {symbol[1:-1]: index for index, symbol in enumerate(self.symbols)}

    def encode(self, strings: Sequence[str], length: int) -> Int64[Tensor, "n length"]:
        """Returns token ids of SELFIES strings, padded with `nop`.

        Arguments:
            strings: N SELFIES strings.
            length: Number of tokens of every row; a string of exactly this length has no `nop`.

        Raises:
            ValueError: If a string is longer than `length`, is malformed or has a symbol that the
                vocabulary lacks.
        """
        if isinstance(strings, str):
            raise TypeError("strings must be a list of SELFIES, got one string; pass [string]")
        index, nop = self._index, self.nop
        rows: list[list[int]] = []
        for position, string in enumerate(strings):
            _check_brackets(string, position)
            try:
                row = [index[inner] for inner in string[1:-1].split("][")] if string else []
            except KeyError as error:
                raise ValueError(
                    f"strings[{position}] has the symbol [{error.args[0]}] which is not among the "
                    f"{len(self.symbols)} of the vocabulary, built from other molecules; build it "
                    "with SelfiesVocabulary.from_selfies on all strings"
                ) from None
            if len(row) > length:
                raise ValueError(
                    f"strings[{position}] has {len(row)} tokens, more than length={length}; drop "
                    "it or raise length"
                )
            rows.append(row + [nop] * (length - len(row)))
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), length)

    def decode(self, tokens: Int64[Tensor, "n length"]) -> list[str]:
        """Returns the SELFIES strings of token rows, each cut at its first `nop`.

        Arguments:
            tokens: Token ids, shape `(n, length)`; a row that begins with `nop` gives "".

        Raises:
            ValueError: If `tokens` is not a matrix of integers, holds an id outside the
                vocabulary, or the start symbol, which a decoder must mask.
        """
        if tokens.ndim != 2 or tokens.is_floating_point():
            got = f"shape {tuple(tokens.shape)} of {tokens.dtype}"
            raise ValueError(f"tokens must be a matrix (n, length) of integers, got {got}")
        wrong = (tokens < 0) | (tokens > self.nop)
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            value = int(tokens[row, column])
            what = (
                "the start symbol, which is never generated; mask its logit"
                if value == self.start
                else f"outside 0 to {self.nop}; was it made with another vocabulary?"
            )
            raise ValueError(f"tokens[{row}, {column}] = {value} is {what}")
        symbols = self.symbols
        ends = self.lengths(tokens).tolist()
        return [
            "".join([symbols[token] for token in row[:end]])
            for row, end in zip(tokens.tolist(), ends, strict=True)
        ]

    def lengths(self, tokens: Int64[Tensor, "*batch length"]) -> Int64[Tensor, "*batch"]:
        """Returns the number of tokens before the first `nop` of each row."""
        ended = (tokens == self.nop).cumsum(-1) > 0
        return (~ended).sum(-1)

    def tokens_to_smiles(self, tokens: Int64[Tensor, "n length"]) -> list[str | None]:
        """Returns the canonical SMILES of token rows; None where empty or refused by RDKit.

        Raises:
            ValueError: As `decode`.
        """
        strings = self.decode(tokens)
        known: dict[str, str | None] = {}
        for string in strings:
            if string not in known:
                try:
                    known[string] = selfies_to_smiles(string)
                except MoleculeError:
                    known[string] = None
        return [known[string] for string in strings]


def _check_brackets(string: str, position: int) -> None:
    if string and not (string.startswith("[") and string.endswith("]")):
        raise ValueError(
            f"strings[{position}] must be SELFIES symbols in brackets, got {string!r}; convert "
            "SMILES with smiles_to_selfies"
        )
