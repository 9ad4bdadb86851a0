import csv
import gzip
import os
from itertools import islice
from pathlib import Path

import pytest
import torch

from lv_molecule import (
    MoleculeError,
    SelfiesVocabulary,
    canonical,
    selfies_to_smiles,
    smiles_to_selfies,
)

STEREO = "C[C@@H](N)C(=O)N/C=C/c1ccccc1"
CHARGED = "O=[N+]([O-])c1cc[n+](C)cc1"


@pytest.fixture
def vocabulary():
    return SelfiesVocabulary(("[O]", "[C]", "[=C]", "[N]", "[P]"))


def zinc_rows():
    path = Path(os.environ["LV_DATA"]) / "zinc250k" / "zinc250k_props.csv.gz"
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            yield row["smiles"]


def official_symbols():
    path = Path(os.environ["LV_DATA"]) / "zinc250k" / "selfies_alphabet.txt"
    return {line.split()[0] for line in path.read_text().splitlines() if line.strip()}


def test_two_spellings_of_a_molecule_have_one_canonical_form():
    assert canonical("OCC") == canonical("C(C)O") == canonical("CCO")
    assert canonical("OCC") != canonical("OCCC")


@pytest.mark.parametrize("smiles", [STEREO, CHARGED, "[2H]C(Cl)Br", "C#N", "O=S(=O)(N)c1ccccc1"])
def test_molecule_survives_selfies(smiles):
    assert selfies_to_smiles(smiles_to_selfies(smiles)) == canonical(smiles)


def test_mirror_images_differ_unless_stereo_is_stripped():
    left, right = "C[C@@H](N)C(=O)O", "C[C@H](N)C(=O)O"
    assert smiles_to_selfies(left) != smiles_to_selfies(right)
    assert smiles_to_selfies(left, isomeric=False) == smiles_to_selfies(right, isomeric=False)
    assert "@" not in smiles_to_selfies(left, isomeric=False)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "ring closures"),
        ("CC(C)(C)(C)C", "valence for atom # 1 C"),
        ("c1cccc1", "kekulize"),
        ("", "empty"),
        ("  ", "empty"),
    ],
)
@pytest.mark.parametrize("function", [canonical, smiles_to_selfies])
def test_refusal_is_one_line_with_string_and_reason(function, smiles, reason):
    with pytest.raises(MoleculeError, match=reason) as caught:
        function(smiles)
    assert "\n" not in str(caught.value)
    assert repr(smiles) in str(caught.value)


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize("function", [canonical, smiles_to_selfies])
def test_none_is_refused_as_a_molecule(function):
    with pytest.raises(MoleculeError, match="None"):
        function(None)


def test_refusals_write_nothing_to_stderr(capfd):
    for smiles in ("C1CC", "c1cccc1", "xyz"):
        with pytest.raises(MoleculeError):
            canonical(smiles)
    assert capfd.readouterr().err == ""


def test_fragments_are_canonical_smiles_but_not_selfies():
    assert canonical("O.C") == canonical("C.O")
    with pytest.raises(MoleculeError, match="2 fragments"):
        smiles_to_selfies("[Na+].[Cl-]")


def test_atoms_that_selfies_lacks_are_refused():
    with pytest.raises(MoleculeError, match="selfies cannot encode"):
        smiles_to_selfies("C*")


def test_unknown_symbol_is_refused_on_decoding():
    with pytest.raises(MoleculeError, match="cannot decode"):
        selfies_to_smiles("[C][Qq]")


def test_selfies_without_atoms_is_an_empty_molecule():
    with pytest.raises(MoleculeError, match="empty"):
        selfies_to_smiles("[nop][nop]")


def test_symbols_are_sorted_and_marks_follow(vocabulary):
    assert vocabulary.symbols == ("[=C]", "[C]", "[N]", "[O]", "[P]")
    assert (vocabulary.nop, vocabulary.start, len(vocabulary)) == (5, 6, 7)
    assert vocabulary == SelfiesVocabulary(vocabulary.symbols[::-1])


def test_from_selfies_ignores_order_repeats_and_padding():
    first = SelfiesVocabulary.from_selfies(["[C][N][nop]", "", "[C][O]"])
    assert first == SelfiesVocabulary.from_selfies(["[O][C]", "[N]"])
    assert first.symbols == ("[C]", "[N]", "[O]")


@pytest.mark.parametrize("symbols", [(), ("C",), ("[C]", "[C]"), ("[nop]",), ("[C][N]",), ("[]",)])
def test_refuses_impossible_symbols(symbols):
    with pytest.raises(ValueError, match="symbols must"):
        SelfiesVocabulary(symbols)


def test_encode_pads_and_decode_returns_the_strings(vocabulary):
    strings = ["[C][O]", "[C][=C][N]", ""]
    tokens = vocabulary.encode(strings, 3)
    assert tokens.tolist() == [[1, 3, 5], [1, 0, 2], [5, 5, 5]]
    assert tokens.dtype == torch.int64
    assert vocabulary.decode(tokens) == strings
    assert vocabulary.lengths(tokens).tolist() == [2, 3, 0]


def test_encoding_nothing_gives_an_empty_matrix(vocabulary):
    tokens = vocabulary.encode([], 7)
    assert tokens.shape == (0, 7)
    assert vocabulary.decode(tokens) == []


def test_decode_cuts_at_the_first_nop(vocabulary):
    assert vocabulary.decode(torch.tensor([[1, 5, 1, 1]])) == ["[C]"]
    assert vocabulary.lengths(torch.tensor([[[1, 5, 1, 1], [1, 1, 1, 5]]])).tolist() == [[1, 3]]


def test_too_long_a_string_is_named(vocabulary):
    with pytest.raises(ValueError, match=r"strings\[1\] has 3 tokens, more than length=2"):
        vocabulary.encode(["[C]", "[C][C][C]"], 2)


def test_unknown_symbol_is_named(vocabulary):
    with pytest.raises(ValueError, match=r"strings\[1\].*\[Cl\].*other molecules"):
        vocabulary.encode(["[C]", "[C][Cl]"], 4)


def test_smiles_in_place_of_selfies_is_refused(vocabulary):
    with pytest.raises(ValueError, match="smiles_to_selfies"):
        vocabulary.encode(["CCO"], 4)
    with pytest.raises(TypeError, match="one string"):
        vocabulary.encode("[C]", 4)


def test_start_symbol_is_never_decoded(vocabulary):
    with pytest.raises(ValueError, match=r"start symbol.*mask"):
        vocabulary.decode(torch.tensor([[1, vocabulary.start]]))


@pytest.mark.parametrize("token", [-1, 7])
def test_foreign_token_is_refused(vocabulary, token):
    with pytest.raises(ValueError, match=f"= {token} is outside 0 to 5"):
        vocabulary.decode(torch.tensor([[1, token]]))


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize("tokens", [torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)])
def test_decode_refuses_other_than_integer_matrices(vocabulary, tokens):
    with pytest.raises(ValueError, match="matrix"):
        vocabulary.decode(tokens)


def test_empty_and_refused_rows_have_no_smiles(vocabulary):
    # Lone P is PH3 for RDKit; the middle row holds nop alone.
    tokens = vocabulary.encode(["[O][C][C]", "", "[C][C][O]", "[P]"], 4)
    assert vocabulary.tokens_to_smiles(tokens) == ["CCO", None, "CCO", "P"]


@pytest.mark.data
def test_first_zinc_molecules_need_official_symbols_alone():
    rows = list(islice(zinc_rows(), 5000))
    strings = [smiles_to_selfies(smiles) for smiles in rows]
    vocabulary = SelfiesVocabulary.from_selfies(strings)
    assert set(vocabulary.symbols) <= official_symbols()
    tokens = vocabulary.encode(strings, 72)
    assert vocabulary.decode(tokens) == strings
    assert vocabulary.tokens_to_smiles(tokens[:300]) == [canonical(s) for s in rows[:300]]


@pytest.mark.slow
@pytest.mark.data
def test_zinc_has_the_official_vocabulary_and_length():
    strings = [smiles_to_selfies(smiles) for smiles in zinc_rows()]
    vocabulary = SelfiesVocabulary.from_selfies(strings)
    assert set(vocabulary.symbols) == official_symbols()
    assert len(vocabulary) == 109
    assert vocabulary.lengths(vocabulary.encode(strings, 72)).max() == 72
