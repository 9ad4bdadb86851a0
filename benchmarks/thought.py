"""Latent thought models: a training iteration, its memory and generation, beside plain versions.

The fast steps dominate: 16 gradients with respect to the latents for one parameter update.
"""

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

import lv_core.nn.transformer.block
import lv_text.model
from benchmarks.measure import in_turns, markdown, matmul_rate
from benchmarks.thought_transcription import PlainTraining, plain_from, slow_optimizer
from lv_core import DiagonalGaussian, stream
from lv_core.density import Evaluation
from lv_text import Inference, ThoughtConfig, ThoughtModel, infer, infer_from
from lv_text.generation import Sampling, generate
from lv_text.metrics import training_flops

__all__ = ["run"]

PLAIN, OURS = "transcription of the official loop", "lv"
LR = 5 / 16
"""Of the fast steps: constant, what carries the log variance from -5 to 0 in 16 of them."""
DRAWN = 512
"""Tokens of the generation."""
STRATUM = 64
"""One uncached forward pass is timed for so many lengths."""


def run(*, quick: bool = False) -> str:
    """Returns the tables of training, memory and generation."""
    tiny, small = ThoughtConfig.tiny(), ThoughtConfig.small()
    found = agreement(replace(tiny, vocabulary=64))
    parts = [
        "Two versions on the same weights, latents and noise in float64, 16 fast steps: largest "
        f"difference {found[0]:.0e} in the latents, {found[1]:.0e} of the largest entry in the "
        "gradient of the weights.",
        _training(tiny, batch=16, steps=16, rounds=2 if quick else 7, compiled=not quick),
    ]
    if quick:
        parts.append(_training(replace(small, vocabulary=8192), batch=1, steps=1, rounds=1))
    else:
        parts.append(_training(small, batch=1, steps=16, rounds=3, ablations=False))
        parts.append(_training(small, batch=1, steps=2, rounds=3))
    parts.append(_memory(small, batches=(1,) if quick else (1, 2, 4)))
    parts.append(_generation(replace(small, vocabulary=8192), rounds=1 if quick else 3))
    return "\n\n".join(parts)


class Ours:
    """Model, optimizer and one training iteration with the package."""

    def __init__(self, model: ThoughtModel, *, steps: int) -> None:
        self.model = model
        self.settings = Inference(steps=steps, lr=LR, schedule="constant", noise="shared")
        self.optimizer = slow_optimizer(model)

    def step(self, tokens: Tensor, targets: Tensor, start: DiagonalGaussian) -> None:
        """Takes one iteration."""
        self.learn(
            tokens, targets, infer(self.model, tokens, targets, self.settings, start=start).z
        )

    def leaking_step(self, tokens: Tensor, targets: Tensor, start: DiagonalGaussian) -> None:
        """The same with gradients of all weights formed and added up in the fast steps."""
        likelihood = Leaking(self.model, tokens, targets)
        found = infer_from(likelihood, start.mean, self.settings, start=start)
        self.learn(tokens, targets, found.z)

    def learn(self, tokens: Tensor, targets: Tensor, z: Tensor) -> None:
        """Takes the slow step."""
        self.model(tokens, targets, z).mean().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Leaking:
    """log p(x | z) whose gradient comes from `backward()`, as in the official loop."""

    def __init__(self, model: ThoughtModel, tokens: Tensor, targets: Tensor) -> None:
        self.model, self.tokens, self.targets = model, tokens, targets

    def __call__(self, z: Tensor) -> Tensor:
        """Returns the value alone."""
        return self.model.log_likelihood(self.tokens, self.targets, z)

    def evaluate(self, z: Tensor) -> Evaluation:
        """Returns value and gradient, and leaves gradients at the weights."""
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            value = self(point)
            value.sum().backward()
        if point.grad is None:
            raise RuntimeError("the latents got no gradient")
        return Evaluation(value.detach(), point.grad, {})


@lru_cache(maxsize=1)
def dense_mask(time: int, window: int) -> Tensor:
    """Returns 0 where a token sees another and -inf elsewhere, `(T, T)`."""
    behind = torch.arange(time)[:, None] - torch.arange(time)
    hidden = (behind < 0) | (behind >= window)
    return torch.zeros(time, time).masked_fill(hidden, -torch.inf)


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, *, window: int, dropout: float, mask: object
) -> Tensor:
    """Window attention over all pairs of tokens."""
    del dropout, mask
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    dense = dense_mask(query.shape[1], window).to(query.dtype)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=dense).transpose(1, 2)


def full_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihoods from the matrix of all logits."""
    logits = functional.linear(hidden, weight).flatten(0, 1)
    nll = functional.cross_entropy(logits, targets.flatten(), reduction="none")
    return nll.view(targets.shape)


@contextmanager
def switched_back(*, dense: bool = False, logits: bool = False) -> Iterator[None]:
    """Lets our decoder use a dense mask, or full logits, inside the block."""
    block, model = lv_core.nn.transformer.block, lv_text.model
    attention = dense_attention if dense else block.causal_attention
    loss = full_nll if logits else model.token_nll
    with (
        mock.patch.object(block, "causal_attention", attention),
        mock.patch.object(model, "token_nll", loss),
    ):
        yield


def agreement(config: ThoughtConfig) -> tuple[float, float]:
    """Returns how far the two versions are apart: latents, and gradient relative to its largest.

    Raises:
        RuntimeError: If they do not compute the same.
    """
    model = ThoughtModel(config, generator=stream(0, "agreement")).double()
    tokens, targets, start = problem(config, 2, torch.float64)
    ours, plain = Ours(model, steps=16), PlainTraining(plain_from(model), steps=16, lr=LR)
    drawn = ours.settings.fit().init(start, generator=stream(0, "noise")).noise
    if drawn is None:
        raise RuntimeError("the fit has no shared noise")
    found = infer(model, tokens, targets, ours.settings, start=start, generator=stream(0, "noise"))
    wanted = plain.infer(tokens, targets, start.mean, 2 * start.log_scale, drawn[0])
    apart = float((found.z - wanted).abs().max())
    plain.optimizer.zero_grad()
    plain.model(tokens, targets, wanted, "mean").backward()
    model(tokens, targets, wanted).mean().backward()
    grads = [
        (model.decoder.tokens.weight.grad, plain.model.tokens.weight.grad),
        (model.decoder.blocks[0].mlp.up.weight.grad, plain.model.blocks[0].w3.weight.grad),
        (
            model.decoder.blocks[1].cross.out.weight.grad,
            plain.model.blocks[1].cross.wo.weight.grad,
        ),
    ]
    away = max(float((a - b).abs().max() / b.abs().max()) for a, b in grads)
    with torch.no_grad():
        own = model(tokens, targets, wanted)
        for back in ({"dense": True}, {"logits": True}):
            with switched_back(**back):
                other = model(tokens, targets, wanted)
            away = max(away, float((other - own).abs().max()))
    if apart > 1e-6 or away > 1e-6:
        raise RuntimeError(f"the two versions differ: latents by {apart}, gradients by {away}")
    return apart, away


def problem(
    config: ThoughtConfig, batch: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, DiagonalGaussian]:
    """Returns random tokens, their successors and where the fit begins."""
    generator = stream(0, "problem")
    ids = torch.randint(config.vocabulary, (batch, config.length + 1), generator=generator)
    shape = (batch, *config.event)
    mean = 0.01 * torch.randn(shape, generator=generator, dtype=dtype)
    log_var = -5 + 0.1 * torch.randn(shape, generator=generator, dtype=dtype)
    return ids[:, :-1], ids[:, 1:], DiagonalGaussian(mean, log_var / 2, event_ndim=3)


def iterations(config: ThoughtConfig, batch: int, steps: int) -> dict[str, Callable[[], None]]:
    """Returns an iteration of each version; those behind the first two are ablations of ours."""
    tokens, targets, start = problem(config, batch)
    ours = Ours(ThoughtModel(config, generator=stream(0, "thought")), steps=steps)
    plain = PlainTraining(plain_from(ours.model), steps=steps, lr=LR)

    def official() -> None:
        noise = torch.randn_like(start.mean)
        plain.step(tokens, targets, start.mean, 2 * start.log_scale, noise)

    def dense() -> None:
        with switched_back(dense=True):
            ours.step(tokens, targets, start)

    def logits() -> None:
        with switched_back(logits=True):
            ours.step(tokens, targets, start)

    return {
        PLAIN: official,
        OURS: lambda: ours.step(tokens, targets, start),
        "lv with weight gradients in the fast steps": lambda: ours.leaking_step(
            tokens, targets, start
        ),
        "lv with a dense mask": dense,
        "lv with full logits": logits,
    }


def _training(
    config: ThoughtConfig,
    *,
    batch: int,
    steps: int,
    rounds: int,
    ablations: bool = True,
    compiled: bool = False,
) -> str:
    work = iterations(config, batch, steps)
    if not ablations:
        work = {name: work[name] for name in (PLAIN, OURS)}
    if compiled:
        model = ThoughtModel(config, generator=stream(0, "thought"))
        model.decoder.upper = torch.compile(model.decoder.upper)  # type: ignore[method-assign]
        fused, (tokens, targets, start) = Ours(model, steps=steps), problem(config, batch)
        work["lv with `decoder.upper` under torch.compile"] = lambda: fused.step(
            tokens, targets, start
        )
    times = in_turns(work, repetitions=rounds)
    rows = [[name, f"{times.median(name):.2f}", times.spread(PLAIN, name)] for name in work]
    decoder = config.decoder()
    counted = training_flops(
        layers=config.layers,
        width=config.width,
        mlp_width=decoder.inner_width,
        vocabulary=config.vocabulary,
        length=config.length,
        slots=config.slots,
        fast_steps=steps,
        window=config.window,
        attention="banded",
    ).counted.total
    limit = counted * batch * config.length / matmul_rate()
    gain = f"{times.median(PLAIN) / limit:.2f}"
    rows.append(["our matrix products at the best rate", f"{limit:.2f}", gain])
    title = (
        f"**One training iteration: B = {batch}, T = {config.length}, D = {config.width}, "
        f"L = {config.layers}, window {config.window}, V = {config.vocabulary:,}, {steps} fast "
        f"steps; {rounds} rounds.**\n\n"
    )
    return title + markdown(["version", "s", "times faster (quartiles)"], rows)


def _memory(config: ThoughtConfig, *, batches: tuple[int, ...]) -> str:
    rows = []
    for batch in batches:
        peaks = {name: peak(name, config, batch) for name in (PLAIN, OURS)}
        for name, (base, most) in peaks.items():
            gain = (peaks[PLAIN][1] - peaks[PLAIN][0]) / (most - base)
            rows.append([f"{batch}", name, f"{base:.0f}", f"{most - base:.0f}", f"{gain:.2f}"])
    held = 16 * sum(p.numel() for p in ThoughtModel(config).parameters()) / 2**20
    rows.append(["any", "weights, gradients and two moments alone", "", f"{held:.0f}", ""])
    header = ["B", "version", "imports, MiB", "peak above them, MiB", "times less"]
    return (
        f"**Peak resident memory of one iteration (1 fast step), V = {config.vocabulary:,}, "
        f"T = {config.length}, a fresh process each.**\n\n" + markdown(header, rows)
    )


def peak(name: str, config: ThoughtConfig, batch: int) -> tuple[float, float]:
    """Returns resident MiB before and at the most in an iteration, in a process of its own."""
    gc.collect()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, name, config, batch).result()


def _peak(name: str, config: ThoughtConfig, batch: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    base = _resident("VmRSS")
    tokens, targets, start = problem(config, batch)
    model = ThoughtModel(config)
    if name == OURS:
        Ours(model, steps=1).step(tokens, targets, start)
    else:
        plain = PlainTraining(plain_from(model), steps=1, lr=LR)
        del model
        noise = torch.randn_like(start.mean)
        plain.step(tokens, targets, start.mean, 2 * start.log_scale, noise)
    return base, _resident("VmHWM")


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _generation(config: ThoughtConfig, *, rounds: int) -> str:
    model = ThoughtModel(config, generator=stream(0, "generation"))
    same = same_text(replace(ThoughtConfig.tiny(), vocabulary=64))
    rows = []
    for batch in (1, 8):
        for prompt in (1, config.length - DRAWN):
            rows += _drawing(model, batch, prompt, rounds)
    header = ["B", "prompt", "version", "s", "tokens a second", "times faster (quartiles)"]
    return (
        f"**Generation of {DRAWN} tokens after a prompt, D = {config.width}, L = {config.layers}, "
        f"window {config.window}, V = {config.vocabulary:,}; {rounds} rounds.** Without cache one "
        f"forward pass is timed in the middle of every {STRATUM} lengths and counted {STRATUM} "
        f"times. Greedy texts of both on a small float64 model, {same} tokens: identical.\n\n"
        + markdown(header, rows)
    )


def _drawing(model: ThoughtModel, batch: int, prompt: int, rounds: int) -> list[list[str]]:
    """Returns the rows of one batch size and length of prompt."""
    config = model.config
    z = torch.randn(batch, *config.event, generator=stream(0, "z"))
    shape = (batch, config.length)
    ids = torch.randint(config.vocabulary, shape, generator=stream(0, "ids"))

    def draw(length: int, new_tokens: int, *, use_cache: bool) -> None:
        generate(
            model,
            z=z,
            prompt=ids[:, :length],
            new_tokens=new_tokens,
            use_cache=use_cache,
            generator=stream(0, "draw"),
        )

    def uncached() -> None:
        for length in range(prompt + STRATUM // 2, prompt + DRAWN, STRATUM):
            draw(length, 1, use_cache=False)

    timed = in_turns(
        {"cached": lambda: draw(prompt, DRAWN, use_cache=True), "uncached": uncached},
        repetitions=rounds,
    )
    seconds = {**timed.seconds, "uncached": STRATUM * timed.seconds["uncached"]}
    times = replace(timed, seconds=seconds)
    rows = []
    for name in seconds:
        speed = batch * DRAWN / times.median(name)
        gain = times.spread("uncached", name)
        rows.append(
            [f"{batch}", f"{prompt}", name, f"{times.median(name):.2f}", f"{speed:.0f}", gain]
        )
    weights = sum(p.numel() for p in model.parameters())
    limit = 2 * weights * DRAWN * batch / matmul_rate()
    gain = f"{times.median('uncached') / limit:.0f}"
    name = "products of one token each at the best rate"
    return [*rows, [f"{batch}", f"{prompt}", name, f"{limit:.2f}", "", gain]]


def same_text(config: ThoughtConfig) -> int:
    """Returns how many greedy tokens of both ways were compared.

    Raises:
        RuntimeError: If they differ.
    """
    model = ThoughtModel(config, generator=stream(0, "same")).double()
    z = torch.randn(3, *config.event, generator=stream(0, "z"), dtype=torch.float64)
    texts = [
        generate(
            model,
            z=z,
            bos=0,
            new_tokens=config.length,
            sampling=Sampling(temperature=0.0),
            use_cache=use,
        ).tokens
        for use in (True, False)
    ]
    if not torch.equal(*texts):
        raise RuntimeError("cached and uncached generation differ")
    return texts[0].numel()
