"""Training: gradients by transcription, micro-batches, schedules, warm starts, bf16."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from apps._runner import UserError, checkpoint
from apps.ltm.cells import Cell, named
from apps.ltm.data import Text, prepare
from apps.ltm.learner import Learner
from apps.ltm.settings import Corpus, Settings, Train
from apps.ltm.single import run_cell
from apps.ltm.state import put_module
from apps.ltm.train import load_model
from lv_core import Rows, normal
from lv_text import Inference, ThoughtConfig

CORPUS = Corpus(source="sample", documents=60, vocabulary=300)
SIZES = ThoughtConfig(width=16, heads=2, layers=2, length=24, window=8, slots=2)
PLAN = Train(iterations=6, batch_size=4, micro_batch=4, warm_up=1, lr=0.003)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    folder = tmp_path_factory.mktemp("text") / "sample"
    prepare(CORPUS, folder, source=None, gpt2=None)
    return Text(folder)


Make = Callable[..., Learner]


@pytest.fixture
def make(text: Text) -> Make:
    def made(variant: str = "fresh", *, double: bool = False, **changes: Any) -> Learner:
        parts = {"model": SIZES, "inference": Inference(steps=2), "train": PLAN}
        for name, part in parts.items():
            parts[name] = replace(part, **changes.get(name, {}))
        settings = Settings(corpus=CORPUS, **parts)
        cell = named(settings, variant, 0, text.vocabulary().size)
        learner = Learner(cell, settings, text, Accelerator(cpu=True))
        if double:
            for module in learner.modules.values():
                module.double()
        return learner

    return made


def gradients(learner: Learner) -> dict[str, Tensor]:
    """Returns the gradient of the first update."""
    batch = learner.store.read(learner.order.step(0))
    tokens = float((batch.y != -100).sum())
    parts = list(range(0, len(batch.x), learner.cell.train.micro_batch))
    for first in parts:
        rows = slice(first, first + learner.cell.train.micro_batch)
        part = type(batch)(**{name: value[rows] for name, value in vars(batch).items()})
        learner._gather(part, tokens, sync=True)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in learner.model.named_parameters()
    }


def transcribed(learner: Learner) -> dict[str, Tensor]:
    """Returns the released loop's gradient: trainable weights, backward in each fast step."""
    model, way = learner.model, learner.cell.inference
    batch = learner.store.read(learner.order.step(0))
    rows = Rows.of(learner.cell.seed, batch.index, "inference", 0)
    like = torch.zeros(len(batch.x), *model.config.event, dtype=torch.float64)
    q = way.fit().start(like, event_ndim=3, generator=rows)
    mean = q.mean.clone().requires_grad_()
    log_var = (2 * q.log_scale).clone().requires_grad_()
    noise = normal(like, rows)
    fast = torch.optim.AdamW(
        [mean, log_var], lr=way.rate, betas=(0.9, 0.999), weight_decay=way.weight_decay
    )
    for _ in range(way.steps):
        z = mean + (0.5 * log_var).exp() * noise
        nll = model(batch.x, batch.y, z).sum()
        kl = 0.5 * (log_var.exp() + mean.square() - 1 - log_var).sum()
        fast.zero_grad()
        (nll + kl).backward()  # leaves its gradient in the weights
        fast.step()
    z = (mean + (0.5 * log_var).exp() * noise).detach()
    (model(batch.x, batch.y, z).sum() / (batch.y != -100).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Returns the largest difference, relative to the largest number."""
    largest = max(float(value.abs().max()) for value in one.values())
    return max(float((one[name] - two[name]).abs().max()) for name in one) / largest


def test_path_sum_is_the_gradient_of_the_released_loop(make: Make):
    ours = gradients(make("path_sum", double=True, inference={"steps": 3}))
    theirs = transcribed(make("path_sum", double=True, inference={"steps": 3}))
    assert distance(theirs, ours) < 1e-9
    # wrong controls: the gradient at the end alone, and fresh noise
    last = make("path_sum", double=True, inference={"steps": 3})
    last.cell = replace(last.cell, train=replace(last.cell.train, slow_grad="final"))
    assert distance(theirs, gradients(last)) > 0.5
    fresh = make("path_sum", double=True, inference={"steps": 3})
    fresh.cell = replace(fresh.cell, inference=replace(fresh.cell.inference, noise="fresh"))
    assert distance(theirs, gradients(fresh)) > 1e-3


def test_path_sum_takes_the_mean_over_several_draws(make: Make):
    """Without noise all draws are one, so two of them leave the gradient as it is."""
    still = {"steps": 3, "init_log_var": -40.0, "lr": 0.1, "init_log_var_noise": 0.0}
    one = gradients(make("path_sum", double=True, inference=still))
    two = gradients(make("path_sum", double=True, inference={**still, "samples": 2}))
    assert distance(one, two) < 1e-4


@pytest.mark.parametrize("variant", ["ar", "fixed", "amortised", "semi_amortised", "path_sum"])
def test_micro_batches_change_rounding_alone(variant: str, make: Make):
    whole = gradients(make(variant, double=True))
    parts = gradients(make(variant, double=True, train={"micro_batch": 1}))
    assert distance(whole, parts) < 1e-9
    # a wrong control: other noise for each sequence
    other = make(variant, double=True)
    other.cell = replace(other.cell, seed=1)
    if variant != "ar":
        assert distance(whole, gradients(other)) > 1e-6


def test_the_fast_loop_leaves_no_gradient_in_the_weights(make: Make):
    learner = make("fresh")
    batch = learner.store.read(learner.order.step(0))
    learner.infer(batch.index, batch.x, batch.y)
    assert all(p.grad is None for p in learner.model.parameters())
    assert all(p.requires_grad for p in learner.model.parameters())


@pytest.mark.parametrize("variant", ["fresh", "amortised", "semi_amortised"])
def test_with_known_a_half_the_other_half_does_not_change_the_latents(variant: str, make: Make):
    def latents(changed: bool) -> list[Tensor]:
        learner, seen = make(variant, train={"known": 0.5}), []
        forward = learner.model.forward

        def keep(tokens: Tensor, targets: Tensor, z: Tensor | None = None) -> Tensor:
            assert tokens.shape[1] == 24  # all tokens are learned from
            seen.append(z.detach().clone())
            return forward(tokens, targets, z)

        learner.model.forward = keep
        if learner.encoder is not None:  # one that has learned to say something
            with torch.no_grad():
                learner.encoder.out.weight.normal_(generator=torch.Generator().manual_seed(0))
        batch = learner.store.read(learner.order.step(0))
        if changed:
            batch.x[:, 13:] = 5
            batch.y[:, 12:] = 5
        learner._gather(batch, float(batch.y.numel()), sync=True)
        return seen

    one, two = latents(False), latents(True)
    assert len(one) == 1
    assert torch.equal(one[0], two[0])
    with_all = make(variant)
    assert with_all.cell.train.known == 1


def test_before_a_late_start_the_decoder_learns_as_without_latents(make: Make):
    late, plain = make("fresh", train={"late": 0.5}), make("ar")
    for _ in range(3):
        first, second = late.step(), plain.step()
        assert first == second
        assert "kl" not in first
    for name, value in plain.model.state_dict().items():
        assert torch.equal(late.model.state_dict()[name], value), name
    assert "kl" in late.step()
    assert not torch.equal(late.model.decoder.head_weight, plain.model.decoder.head_weight)


def test_a_late_start_is_resumed_exactly_before_and_after_it(make: Make, tmp_path: Path):
    """Parameters without any gradient yet have no moments: they must not get a step too many."""
    whole = make("semi_amortised", train={"late": 0.5})
    for _ in range(6):
        whole.step()
    for cut in (2, 4):
        learner = make("semi_amortised", train={"late": 0.5})
        for _ in range(cut):
            learner.step()
        checkpoint.write(tmp_path / "cut.pt", learner.state())
        again = make("semi_amortised", train={"late": 0.5})
        again.load(checkpoint.read(tmp_path / "cut.pt"), tmp_path / "cut.pt")
        for _ in range(6 - cut):
            again.step()
        for module, kept in again.modules.items():
            for name, value in kept.state_dict().items():
                assert torch.equal(value, whole.modules[module].state_dict()[name]), name


def test_the_weight_of_the_divergence_rises(make: Make):
    """At a tiny weight posteriors leave the prior further than at the whole."""

    def divergence(share: float) -> float:
        plan = {"kl_warm_up": share, "iterations": 1000, "lr": 1e-9}
        # a gradient step of many that would lower the divergence
        learner = make("fresh", train=plan, inference={"steps": 12, "lr": 0.2})
        return learner.step()["kl"]

    assert divergence(1.0) > 1.5 * divergence(0.0)
    assert divergence(0.001) == divergence(0.0)  # at its end after the first update


def test_the_encoders_divergence_is_weighted_too(make: Make):
    def gradient(**plan: float) -> float:
        learner = make("amortised", train={"iterations": 1000, **plan})
        with torch.no_grad():
            learner.encoder.out.bias.fill_(2.0)  # mean 2: the divergence pulls
        batch = learner.store.read(learner.order.step(0))
        learner._gather(batch, float(batch.y.numel()), sync=True)
        return float(learner.encoder.out.bias.grad.abs().max())

    assert gradient() > 100 * gradient(kl_warm_up=1.0)


def test_warm_starts_begin_cold_and_go_on_where_the_last_visit_ended(make: Make):
    plan = {"warm_start": True, "iterations": 1000, "lr": 1e-9}
    learner = make("fresh", train=plan, inference={"steps": 4, "lr": 0.2})
    batch = learner.store.read(learner.order.step(0))
    index = batch.index
    cold = learner.bank.get(index)
    # as the fit begins: means of 0.01, log variance near -5; not at draws of N(0, 1)
    assert float(cold[:, 0].abs().max()) < 0.1
    assert float((2 * cold[:, 1] + 5).abs().max()) < 1
    first = learner.infer(index, batch.x, batch.y)
    kept = learner.bank.get(index)
    assert torch.equal(kept, torch.stack((first.q.mean, first.q.log_scale), 1))
    second = learner.infer(index, batch.x, batch.y)
    assert float(second.kl.mean()) < float(first.kl.mean())
    # only vb has a posterior to start from
    assert make("amortised", train={"warm_start": True}).bank is None
    assert make("semi_amortised", train={"warm_start": True}).bank is None


def test_bf16_learns_with_the_weights_of_now(make: Make, text: Text, tmp_path: Path):
    """Autocast that keeps cast weights would go on with those of the first update."""
    from accelerate.state import AcceleratorState

    costs = {}
    for precision in ("fp32", "bf16"):
        AcceleratorState._reset_state()
        settings = Settings(
            corpus=CORPUS, model=SIZES, precision=precision, train=replace(PLAN, iterations=40)
        )
        settings = replace(settings, train=replace(settings.train, lr=0.02))
        settings = replace(settings, generate=replace(settings.generate, samples=0))
        cell = named(settings, "ar", 0, text.vocabulary().size)
        folder = tmp_path / precision
        folder.mkdir()
        found = run_cell(cell, settings, text, folder, "cpu")
        costs[precision] = [row["valid_nll"] for row in found["curve"]]
        # what was evaluated during training is what the stored weights give
        _, model, _ = load_model(folder, "ar-0", text)
        batch = text.store("valid", 24).read(torch.arange(4))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            now = float(model(batch.x, batch.y).mean())
        assert now == pytest.approx(costs[precision][-1], abs=0.5)
    AcceleratorState._reset_state()
    assert costs["bf16"] == pytest.approx(costs["fp32"], abs=0.05)
    assert costs["fp32"][0] - costs["fp32"][-1] > 0.5  # there was something to learn


def test_dropout_is_drawn_anew_in_each_update_and_repeated_by_a_resumed_run(make: Make):
    one, two = make("ar", model={"dropout": 0.3}), make("ar", model={"dropout": 0.3})
    first = one.step()
    torch.randn(7)  # others draw from the global generator, too
    assert two.step() == first
    two.done = 0
    assert two.step() != first


def test_a_gradient_that_is_not_finite_ends_the_run(make: Make):
    learner = make("ar")
    with torch.no_grad():
        learner.model.decoder.head_weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"ar-0: the gradient is not finite .* train\.lr"):
        learner.step()


def test_the_step_size_rises_and_falls(make: Make):
    learner = make("ar", train={"iterations": 100, "warm_up": 10, "lr": 1.0, "lr_end": 0.1})
    assert [learner.lr_at(k) for k in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learner.lr_at(10) == pytest.approx(1.0)
    assert learner.lr_at(55) == pytest.approx(0.55)
    assert learner.lr_at(100) == pytest.approx(0.1)


def test_a_checkpoint_of_another_vocabulary_or_cell_is_refused(make: Make, tmp_path: Path):
    learner = make("ar")
    learner.step()
    path = tmp_path / "ar.pt"
    for key, value, told in (
        ("vocabulary", "another", "vocabulary"),
        ("cell", json.dumps({**learner.cell.record(), "seed": 5}), "made with other settings"),
        ("modules", {}, "does not fit the model"),
    ):
        before = learner.model.state_dict()
        with pytest.raises(UserError, match=told):
            make("ar").load({**learner.state(), key: value}, path)
        assert all(torch.equal(before[k], v) for k, v in learner.model.state_dict().items())
    with pytest.raises(ValueError, match=r"is \(3,\), not"):
        put_module(learner.model, {k: torch.zeros(3) for k in learner.model.state_dict()})


def test_an_unknown_model_of_a_run_is_told(make: Make, text: Text, tmp_path: Path):
    learner = make("semi_amortised")
    checkpoint.write(tmp_path / "one.state.pt", learner.state())
    cell, model, encoder = load_model(tmp_path, "one", text)
    assert isinstance(cell, Cell)
    for mine, kept in ((learner.model, model), (learner.encoder, encoder)):
        for name, value in mine.state_dict().items():
            assert torch.equal(kept.state_dict()[name], value)
    with pytest.raises(UserError, match="holds no model 'two'; there are: one"):
        load_model(tmp_path, "two", text)


# torch looks at .grad of the latents while it traces
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.slow
def test_compiled_layers_learn_the_same_and_leave_the_model_as_it_was(make: Make):
    plain, compiled = make("fresh"), make("fresh", train={"compile": True})
    for _ in range(2):
        a, b = plain.step(), compiled.step()
        assert a["nll"] == pytest.approx(b["nll"], rel=1e-4)
    for one, two in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-4)
    # evaluation, with its other shapes, runs the layers themselves
    assert "upper" not in vars(compiled.model.decoder)
