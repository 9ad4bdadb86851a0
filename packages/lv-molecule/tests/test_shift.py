"""One round of distribution shifting: what enters the pool, what it costs, what it refuses."""

import pytest
import torch

from lv_core import stream
from lv_core.nn import mlp
from lv_molecule import (
    Candidate,
    LstmDecoder,
    MoleculeModel,
    Oracle,
    Pool,
    SelfiesVocabulary,
    canonical,
    qed,
    shift_round,
    smiles_to_selfies,
)
from lv_priors import EnergyPrior, PropertyHead
from lv_priors.presets import sgds_prior, sgds_shift

SMILES = ["CCO", "CCCN", "CC(=O)OCC", "c1ccccc1C", "CCCCCl", "CC#N"]
LATENT, LENGTH = 4, 14


@pytest.fixture
def parts():
    strings = [smiles_to_selfies(s) for s in SMILES]
    vocabulary = SelfiesVocabulary.from_selfies(strings)
    decoder = LstmDecoder(
        len(vocabulary), LATENT, end=vocabulary.nop, start=vocabulary.start, embedding=8, hidden=8
    )
    prior = EnergyPrior(mlp((LATENT, 8, 1)), LATENT, scale=0.5)
    model = MoleculeModel(prior, decoder, {"qed": PropertyHead((LATENT, 8, 1))}).eval()
    tokens = vocabulary.encode(strings, LENGTH)
    known = [canonical(s) for s in SMILES]
    rows = Candidate.rows(
        tokens, known, {"qed": [qed(s) for s in known]}, torch.randn(len(known), LATENT)
    )
    return Pool(rows), model, vocabulary


def round_of(parts, oracle, **changes):
    pool, model, vocabulary = parts
    options = {
        "name": "qed",
        "delta": 0.1,
        "count": 60,
        "size": 8,
        "max_length": LENGTH,
        "chain": stream(0, "chain"),
        "strings": stream(0, "strings"),
        **changes,
    }
    kernel = options.pop("kernel", sgds_shift(2))
    return shift_round(pool, model, vocabulary, oracle, kernel, **options)


def test_accounts_for_every_string_and_keeps_the_best(parts):
    pool, _, vocabulary = parts
    with Oracle(qed, name="qed", budget=None) as oracle:
        found = round_of(parts, oracle)
        scored = oracle.history
    assert found.proposed == 60 == found.invalid + found.repeated + found.added
    assert found.added == len(found.values) == len(found.predicted) > 8
    assert len(pool) == 8
    best = sorted([*scored.values(), *(qed(s) for s in SMILES)], reverse=True)
    # A proposal may equal a first molecule; then its value stands twice in the list.
    assert pool.values("qed").min() >= sorted(set(best), reverse=True)[8] - 1e-12
    for member in pool:
        assert vocabulary.tokens_to_smiles(member.tokens[None]) == [member.smiles]
        assert member.values["qed"] == pytest.approx(qed(member.smiles))


def test_the_pool_mean_never_falls_and_nothing_enters_twice(parts):
    pool, means = parts[0], []
    with Oracle(qed, name="qed", budget=None) as oracle:
        for k in range(4):
            round_of(parts, oracle, chain=stream(k, "c"), strings=stream(k, "s"))
            means.append(pool.values("qed").mean().item())
    assert means == sorted(means)
    assert len(set(pool.smiles())) == len(pool)


def test_the_budget_is_exact(parts):
    with Oracle(qed, name="qed", budget=10) as oracle:
        found = round_of(parts, oracle)
        assert oracle.calls == 10
    assert found.exhausted


def test_latents_stay_with_their_molecules(parts):
    """Greedy strings from equal latents: decoding a member's latent gives back its tokens."""
    pool, model, vocabulary = parts
    with torch.no_grad():  # a decoder whose most probable string depends on the latent
        for parameter in model.decoder.parameters():
            parameter.mul_(20.0)
    with Oracle(qed, name="qed", budget=None) as oracle:
        first = set(pool.smiles())
        original = model.generate
        model.generate = lambda z, **o: original(z, **{**o, "temperature": 0.0})
        round_of(parts, oracle, count=100, size=50)
    new = [member for member in pool if member.smiles not in first]
    assert new
    for member in new:
        again = original(member.latent[None], max_length=LENGTH, temperature=0.0)
        assert vocabulary.tokens_to_smiles(again) == [member.smiles]


def test_guidance_moves_latents_towards_the_target(parts):
    pool, model, _ = parts
    head = model.head("qed")
    with torch.no_grad():  # a head that reads the first coordinate
        head.network = torch.nn.Sequential(torch.nn.Linear(LATENT, 1))
        head.network[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
        head.network[0].bias.zero_()
    values = pool.values("qed").mean().item()
    means = {}
    for guided in (True, False):
        kernel = sgds_shift(10) if guided else sgds_prior(10)
        given = {"qed": torch.full((200,), values + 3.0)} if guided else None
        start = torch.zeros(200, LATENT)
        trace = model.infer(kernel, start, values=given, generator=stream(0, "c"))
        means[guided] = head.predict(trace.state.u).mean().item()
    assert means[True] > values + 1.5
    assert abs(means[False]) < 0.5


def test_refuses_an_empty_pool(parts):
    with (
        Oracle(qed, name="qed", budget=None) as oracle,
        pytest.raises(ValueError, match="a pool with members"),
    ):
        round_of((Pool(), *parts[1:]), oracle)
