import pickle

import pytest
from rdkit import Chem

from lv_molecule import (
    PROPERTIES,
    MoleculeError,
    log_p,
    penalised_logp_normalised,
    penalised_logp_unnormalised,
    qed,
    sa_score,
)

TAMOXIFEN = r"CC/C(=C(\c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1"
RALOXIFENE = "O=C(c1ccc(OCCN2CCCCC2)cc1)c1c(-c2ccc(O)cc2)sc2cc(O)ccc12"


# SA changes in the third digit between RDKit versions: tolerance 0.01.
@pytest.mark.parametrize(
    ("smiles", "drug_likeness", "synthesis"), [(TAMOXIFEN, 0.451, 2.02), (RALOXIFENE, 0.319, 2.39)]
)
def test_known_drugs_have_the_published_qed_and_sa(smiles, drug_likeness, synthesis):
    assert qed(smiles) == pytest.approx(drug_likeness, abs=0.001)
    assert sa_score(smiles) == pytest.approx(synthesis, abs=0.01)


def test_long_chains_have_the_known_penalised_logp():
    assert log_p("C" * 72) == pytest.approx(28.33, abs=0.01)
    assert penalised_logp_unnormalised("C" * 72) == pytest.approx(26.38, abs=0.02)
    assert penalised_logp_normalised("C" * 72) == pytest.approx(19.53, abs=0.02)
    assert penalised_logp_unnormalised("S" * 72) == pytest.approx(40.56, abs=0.02)


def test_unnormalised_scale_counts_large_rings():
    smiles = "C1CCCCCCC1CC1CCCCCC1"  # rings of 8 and 7
    rest = log_p(smiles) - sa_score(smiles)
    assert penalised_logp_unnormalised(smiles) == pytest.approx(rest - 2)


def test_normalised_scale_takes_the_excess_of_the_largest_ring():
    def ring_term(smiles):
        rest = (log_p(smiles) - 2.4570953396190123) / 1.434324401111988
        rest += (-sa_score(smiles) + 3.0525811293166134) / 0.8335207024513095
        return (penalised_logp_normalised(smiles) - rest) * 0.2860212110245455 - 0.0485696876403053

    assert ring_term("C1CCCCCCC1CC1CCCCCC1") == pytest.approx(-2, abs=1e-9)
    assert ring_term("C1CCCCC1") == pytest.approx(0, abs=1e-9)
    assert ring_term("CCO") == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", list(PROPERTIES))
def test_every_property_takes_text_or_molecule_and_pickles(name):
    function = PROPERTIES[name]
    value = function(Chem.MolFromSmiles("CCO"))
    assert pickle.loads(pickle.dumps(function))("OCC") == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", list(PROPERTIES))
@pytest.mark.parametrize("molecule", ["", "C1CC", Chem.Mol()])
def test_every_property_refuses_what_is_no_molecule(name, molecule):
    with pytest.raises(MoleculeError):
        PROPERTIES[name](molecule)


def test_table_of_properties_cannot_be_changed():
    with pytest.raises(TypeError):
        PROPERTIES["qed"] = len
