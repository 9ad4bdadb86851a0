import os
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.Descriptors import MolWt

from lv_molecule import (
    canonical,
    penalised_logp_unnormalised,
    qed,
    recombine,
    selfies_to_smiles,
    smiles_to_selfies,
)


@pytest.fixture(scope="module")
def molecules():
    return recombine(600)


def test_molecules_are_distinct_canonical_and_of_drug_like_size(molecules):
    assert len(set(molecules)) == 600
    assert all(canonical(smiles) == smiles for smiles in molecules)
    masses = [MolWt(Chem.MolFromSmiles(smiles)) for smiles in molecules]
    assert min(masses) > 149
    assert max(masses) < 502  # the limit is on the monoisotopic mass


def test_every_molecule_survives_selfies_of_at_most_72_tokens(molecules):
    strings = [smiles_to_selfies(smiles) for smiles in molecules]
    assert max(string.count("[") for string in strings) <= 72
    assert [selfies_to_smiles(string) for string in strings] == list(molecules)


def test_properties_spread_over_a_useful_range(molecules):
    drug_likeness = [qed(smiles) for smiles in molecules]
    assert min(drug_likeness) < 0.35
    assert max(drug_likeness) > 0.9
    penalised = np.array([penalised_logp_unnormalised(smiles) for smiles in molecules])
    assert penalised.min() < -4
    assert penalised.max() > 2
    assert 1 < penalised.std() < 2.5


def test_no_open_bond_or_charge_but_nitro_is_left(molecules):
    for smiles in molecules:
        assert "*" not in smiles
        assert "." not in smiles
        assert "+" not in smiles.replace("[N+](=O)[O-]", "").replace("O=[N+]([O-])", "")


def test_seed_and_number_decide_the_molecules(molecules):
    assert recombine(50) == molecules[:50]
    assert recombine(50, seed=1) != molecules[:50]


def test_another_process_with_another_hash_seed_makes_the_same(molecules):
    code = (
        "from lv_molecule import recombine; import sys; sys.stdout.write(' '.join(recombine(40)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert tuple(answer.stdout.split(" ")) == molecules[:40]


@pytest.mark.parametrize("n", [0, -3, 100_001])
def test_impossible_numbers_are_refused(n):
    with pytest.raises(ValueError, match="n must be from 1 to 100000"):
        recombine(n)
