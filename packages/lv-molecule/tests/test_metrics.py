import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.DataStructs import TanimotoSimilarity

from lv_molecule import (
    MoleculeError,
    canonical_set,
    internal_diversity,
    novelty,
    top,
    top_k_against_calls,
    uniqueness,
    validity,
)


def test_shares_count_every_generated_string():
    generated = ["CCO", "CCO", None, "CCN"]
    assert validity(generated) == 0.75
    assert uniqueness(generated) == 0.5
    assert novelty(generated, {"CCN", "CCC"}) == 0.25
    assert novelty(generated, canonical_set(["NCC", "OCC"])) == 0.0


def test_unparsable_string_is_invalid():
    assert validity(["CCO", "C1CC", "", "c1cccc1"]) == 0.25


@pytest.mark.parametrize("function", [validity, uniqueness, lambda s: novelty(s, set())])
def test_no_strings_are_refused(function):
    with pytest.raises(ValueError, match="at least one"):
        function([])


def test_canonical_set_joins_spellings_and_names_the_fault():
    assert canonical_set(["OCC", "CCO"]) == {"CCO"}
    with pytest.raises(MoleculeError, match=r"smiles\[1\].*'C1CC'"):
        canonical_set(["CCO", "C1CC"])


def test_equal_molecules_have_no_diversity_and_strangers_have_all():
    assert internal_diversity(["CCO", "OCC", "CCO"]) == 0.0
    assert internal_diversity(["CC", "N#N"]) == 1.0


def test_internal_diversity_agrees_with_the_mean_over_pairs():
    smiles = ["CCO", "CCCO", "c1ccccc1O", "CC(=O)N"]
    morgan = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [morgan.GetFingerprint(Chem.MolFromSmiles(s)) for s in smiles]
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    mean = np.mean([TanimotoSimilarity(prints[a], prints[b]) for a, b in pairs])
    assert internal_diversity(smiles) == pytest.approx(1 - mean)
    assert 0.5 < internal_diversity(smiles) < 1


def test_diversity_of_one_molecule_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        internal_diversity(["CCO"])


def test_top_is_sorted_and_skips_missing_values():
    values = [1.0, np.nan, 3.0, 2.0]
    assert top(values, 2).tolist() == [3.0, 2.0]
    assert top(values, 2, maximise=False).tolist() == [1.0, 2.0]
    assert top(values, 9).tolist() == [3.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="k must"):
        top(values, 0)


def test_running_top_k_by_hand():
    curve = top_k_against_calls([np.nan, 1.0, 3.0, 2.0, 0.0, 5.0], 2)
    np.testing.assert_allclose(curve, [np.nan, 1.0, 2.0, 2.5, 2.5, 4.0])
    curve = top_k_against_calls([2.0, 3.0, 1.0], 2, maximise=False)
    np.testing.assert_allclose(curve, [2.0, 2.5, 1.5])


def test_running_top_k_agrees_with_top_of_every_prefix():
    values = np.random.default_rng(0).normal(size=200)
    expected = [top(values[: call + 1], 10).mean() for call in range(200)]
    np.testing.assert_allclose(top_k_against_calls(values, 10), expected)
