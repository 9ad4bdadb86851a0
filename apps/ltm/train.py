"""One model: slow learning of its decoder around the fast learning of latents."""

import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from apps._runner import UserError, checkpoint
from apps.ltm.cells import Cell
from apps.ltm.data import Text
from apps.ltm.evaluate import quick
from apps.ltm.settings import Settings
from apps.ltm.state import module_state, optimizer_state, put_module, put_optimizer
from lv_core import DiagonalGaussian, Rows, normal, stream
from lv_core.bank import ChainBank
from lv_text import Batch, Inferred, ThoughtEncoder, ThoughtModel, check_vocabulary, infer

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

__all__ = ["Learner", "load_model", "train"]

IGNORED = -100


class Learner:
    """A model in training: everything that a checkpoint holds, and the update."""

    def __init__(
        self, cell: Cell, settings: Settings, text: Text, accelerator: "Accelerator"
    ) -> None:
        """Makes model, optimizer and reader; nothing is read yet."""
        self.cell, self.settings, self.accelerator = cell, settings, accelerator
        self.device = accelerator.device
        world, rank = accelerator.num_processes, accelerator.process_index
        plan = cell.train
        self.vocabulary = text.vocabulary()
        self.store = text.store("train", cell.model.length, settings.corpus.blocks)
        if plan.batch_size % world:
            raise UserError(
                f"train.batch_size {plan.batch_size} does not divide by {world} processes"
            )
        self.order = self.store.order(
            batch_size=plan.batch_size // world, seed=cell.seed, rank=rank, world=world
        )
        self.model = ThoughtModel(cell.model, generator=stream(cell.seed, "model"))
        self.encoder = (
            ThoughtEncoder(cell.model, generator=stream(cell.seed, "encoder"))
            if cell.encoded
            else None
        )
        self.modules: dict[str, nn.Module] = {"model": self.model}
        if self.encoder is not None:
            self.modules["encoder"] = self.encoder
        self._place()
        self.optimizer = self._optimizer()
        self.bank = self._bank()
        self.done = 0

    def step(self) -> dict[str, float]:
        """Takes one update; returns its numbers, means over the tokens of all processes."""
        plan = self.cell.train
        if self.cell.model.dropout > 0:  # else a resumed run would draw other masks
            rank = self.accelerator.process_index
            names = (self.cell.seed, "dropout", self.done, rank)
            torch.manual_seed(stream(*names).initial_seed())
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(self.done)
        batch = self.store.read(self.order.step(self.done)).to(self.device)
        (tokens,) = self._everywhere([float((batch.y != IGNORED).sum())])
        logs: dict[str, float] = {}
        parts = list(_split(batch, plan.micro_batch))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            for name, value in self._gather(part, tokens, sync=last).items():
                logs[name] = logs.get(name, 0.0) + value
        totals = self._everywhere(list(logs.values()))
        norm: Any = nn.utils.clip_grad_norm_(self._parameters(), plan.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP shards it
        if not math.isfinite(float(norm)):
            raise FloatingPointError(
                f"{self.cell.name}: the gradient is not finite after {self.done} updates; lower "
                "train.lr"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        means = {name: value / tokens for name, value in zip(logs, totals, strict=True)}
        return means | {"norm": float(norm)}

    def infer(self, index: Tensor, tokens: Tensor, targets: Tensor) -> Inferred:
        """Returns the latents of training sequences, from noise that is their own.

        Arguments:
            index: Numbers of their blocks.
            tokens: What inference may see of them.
            targets: Its successors.
        """
        plan, cell = self.cell.train, self.cell
        settings = cell.inference
        if plan.kl_warm_up > 0:
            done = (self.done + 1) / (plan.kl_warm_up * plan.iterations)
            settings = replace(settings, kl_weight=settings.kl_weight * min(1.0, done))
        start = None
        if self.bank is not None:
            mean, log_scale = self.bank.get(index.cpu()).to(self.device).unbind(1)
            start = DiagonalGaussian(mean, log_scale, event_ndim=3)
        with self._gathered():
            found = infer(
                self.model,
                tokens,
                targets,
                settings,
                encoder=self.encoder,
                start=start,
                generator=Rows.of(cell.seed, index, "inference", self.done),
            )
        if self.bank is not None and found.q is not None:
            both = torch.stack((found.q.mean, found.q.log_scale), 1)
            # The next visit may fall to another process, and rank 0 alone writes checkpoints.
            index, both = self.accelerator.gather((index, both.contiguous()))
            self.bank.put(index.cpu(), both.cpu())
        return found

    def whole(self) -> tuple[ThoughtModel, ThoughtEncoder | None]:
        """Returns model and encoder with all parameters in this process, for evaluation.

        All processes must call it.
        """
        if not self.sharded:
            return self.model, self.encoder
        weights = {kind: module_state(module) for kind, module in self.modules.items()}
        model, encoder = _built(self.cell, weights)
        return model.to(self.device), None if encoder is None else encoder.to(self.device)

    def lr_at(self, step: int) -> float:
        """Returns the step size: linear warm-up, then a cosine."""
        plan = self.cell.train
        if step < plan.warm_up:
            return plan.lr * (step + 1) / plan.warm_up
        share = (step - plan.warm_up) / max(1, plan.iterations - plan.warm_up)
        cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        return plan.lr * (plan.lr_end + (1 - plan.lr_end) * cosine)

    # State

    def state(self) -> dict[str, Any]:
        """Returns a checkpoint, the same whether parameters are whole, copied or sharded.

        All processes must call it.
        """
        container = nn.ModuleDict(self.modules)
        return {
            "done": self.done,
            "vocabulary": self.vocabulary.fingerprint,
            "cell": json.dumps(self.cell.record()),
            "modules": module_state(container),
            "optimizer": optimizer_state(container, self.optimizer),
            "bank": None if self.bank is None else self.bank.state_dict(),
        }

    def load(self, state: dict[str, Any], path: Path) -> None:
        """Goes on where `state` was taken.

        Raises:
            UserError: If it is of another model or vocabulary.
        """
        if json.loads(state["cell"]) != json.loads(json.dumps(self.cell.record())):
            raise UserError(f"{path} was made with other settings; choose another --out")
        _same_vocabulary(self, state, path)
        container = nn.ModuleDict(self.modules)
        try:
            put_module(container, state["modules"])
        except ValueError as error:
            told = f"{path} does not fit the model ({error}); was it written by other code?"
            raise UserError(told) from None
        put_optimizer(container, self.optimizer, state["optimizer"])
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])
        self.done = state["done"]

    # Parts

    def _place(self) -> None:
        """Moves the modules to the device and prepares them for several processes."""
        self.wrapped: dict[str, nn.Module] = {}
        self.sharded = self.settings.fsdp and self.accelerator.num_processes > 1
        for name, module in self.modules.items():
            module.to(self.device)
            if self.accelerator.num_processes == 1:
                self.wrapped[name] = module
            elif self.sharded:
                from torch.distributed.fsdp import fully_shard

                # the encoder's mean is a view; nothing is written into it
                warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* view tensor")
                fully_shard(module)  # in place
                self.wrapped[name] = module
            else:
                # without latents cross-attention gets no gradient
                idle = self.cell.kind == "ar" or self.cell.train.late > 0
                self.wrapped[name] = nn.parallel.DistributedDataParallel(
                    module, find_unused_parameters=idle
                )

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = self._parameters()
        plan = self.cell.train
        groups = [
            {
                "params": [p for p in parameters if p.dim() >= 2],
                "weight_decay": plan.weight_decay,
            },
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        fused = self.device.type == "cuda"
        return torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.95), fused=fused)

    def _bank(self) -> ChainBank | None:
        cell = self.cell
        if not cell.train.warm_start or cell.kind != "thought" or cell.inference.method != "vb":
            return None

        def cold(index: Tensor, *, generator: torch.Generator) -> Tensor:
            """Returns where inference begins at the first visit."""
            like = torch.zeros(len(index), *cell.model.event)
            q = cell.inference.fit().start(like, event_ndim=3, generator=generator)
            return torch.stack((q.mean, q.log_scale), 1)

        return ChainBank(len(self.store), (2, *cell.model.event), seed=cell.seed, init=cold)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules.values() for p in module.parameters()]

    def _everywhere(self, values: list[float]) -> list[float]:
        """Returns the sums over processes."""
        if self.accelerator.num_processes == 1:
            return values
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        sums: list[float] = self.accelerator.reduce(own, "sum").tolist()
        return sums

    def _gather(self, part: Batch, tokens: float, *, sync: bool) -> dict[str, float]:
        """Adds the gradient of one micro-batch; returns summed nats."""
        world = self.accelerator.num_processes
        cell, plan = self.cell, self.cell.train
        kind = "ar" if self.done < plan.late * plan.iterations else cell.kind
        z, logs = None, {}
        path: list[Tensor] = []
        extra = torch.zeros((), device=self.device)
        # What inference may see: the decoder is causal, so the rest need not be computed.
        seen = max(1, round(plan.known * part.y.shape[1]))
        x, y = part.x[:, :seen], part.y[:, :seen]
        if kind == "encoder":
            q = self.wrapped["encoder"](x, y)
            rows = Rows.of(cell.seed, part.index, "inference", self.done)
            z, kl = q.rsample(normal(q.mean, rows)), q.kl()
            weight = cell.inference.kl_weight
            if plan.kl_warm_up > 0:
                weight *= min(1.0, (self.done + 1) / (plan.kl_warm_up * plan.iterations))
            extra = weight * kl.clamp(min=cell.inference.free_nats).sum()
            logs["kl"] = float(kl.sum().detach())
        elif kind == "thought":
            with torch.no_grad(), self._recording() as path:
                found = self.infer(part.index, x, y)
            z = found.z
            if found.q is not None:
                logs["kl"] = float(found.kl.sum())
            if found.kl_floor is not None:
                logs["kl_floor"] = float(found.kl_floor.sum())
            if self.encoder is not None and found.q is not None:
                # the encoder follows the fit: KL(fitted q, its guess)
                extra = found.q.kl(self.wrapped["encoder"](x, y)).sum()
        for latent in path:
            # What the release lets leak: gradients of the fast steps, summed over tokens.
            with self._syncing(False):
                nll = self.wrapped["model"](x, y, latent).sum()
                (nll * (world / cell.inference.samples)).backward()
        # Last, as this one may be exchanged: it is the only one in which all modules take part.
        with self._syncing(sync):
            nll = self.wrapped["model"](part.x, part.y, z).sum()
            loss = (nll + extra) / tokens * world  # DDP takes the mean over processes
            loss.backward()
        return logs | {"nll": float(nll.detach())}

    def _recording(self) -> "_Path":
        return _Path(self.model, active=self.cell.train.slow_grad == "path_sum")

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        """Collects sharded parameters once for all fast steps."""
        modules = list(self.modules.values()) if self.sharded else []
        for module in modules:
            module.unshard()  # type: ignore[operator]  # FSDP's
        try:
            yield
        finally:
            for module in modules:
                module.reshard()  # type: ignore[operator]

    @contextmanager
    def _syncing(self, sync: bool) -> Iterator[None]:
        """Leaves the exchange of gradients to the last backward pass of an update."""
        with ExitStack() as stack:
            for module in self.wrapped.values():
                if isinstance(module, nn.parallel.DistributedDataParallel) and not sync:
                    stack.enter_context(module.no_sync())
            yield


class _Path:
    """Records the latents at which a fit evaluates the decoder, for parity with the release."""

    def __init__(self, model: ThoughtModel, *, active: bool) -> None:
        self.model, self.active = model, active
        self.seen: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        if self.active:
            original = self.model.upper_nll

            def recorded(lower: Tensor, targets: Tensor, z: Tensor) -> Tensor:
                if z.requires_grad:  # not the closing evaluation, which has no gradient
                    self.seen.append(z.detach().clone())
                return original(lower, targets, z)

            self.model.upper_nll = recorded  # type: ignore[method-assign]
        return self.seen

    def __exit__(self, *_: object) -> None:
        if self.active:
            del self.model.upper_nll  # the class's own again


def _split(batch: Batch, size: int) -> Iterator[Batch]:
    for first in range(0, len(batch.x), size):
        yield Batch(**{name: part[first : first + size] for name, part in vars(batch).items()})


def _same_vocabulary(learner: Learner, state: dict[str, Any], path: Path) -> None:
    try:
        check_vocabulary(str(path), learner.vocabulary, state["vocabulary"])
    except ValueError as error:
        raise UserError(str(error)) from None


def train(
    cell: Cell, settings: Settings, text: Text, folder: Path, accelerator: "Accelerator"
) -> tuple[Learner, list[dict[str, float]], float]:
    """Trains a cell, going on from its checkpoint if there is one.

    Returns:
        The learner, the curve (a row per quick evaluation), and the seconds of training alone.
    """
    path, curve = folder / f"{cell.name}.state.pt", folder / f"{cell.name}.jsonl"
    learner = Learner(cell, settings, text, accelerator)
    main = accelerator.is_main_process
    before, rows = 0.0, []
    # Sums since the last row, part of the checkpoint so that a resumed row has the same means.
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    if path.exists():
        state = checkpoint.read(path)
        learner.load(state, path)
        before, rows = float(state["seconds"]), state["rows"]
        sums, counts = state["sums"], state["counts"]
    total, first = cell.train.iterations, learner.done
    every = settings.evaluate.every or max(1, total // 10)
    began = told = time.perf_counter()
    outside = 0.0
    while learner.done < total:
        logs = learner.step()
        for name, value in logs.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1
        now = time.perf_counter()
        if main and now - told > 15:
            told = now
            rate = (now - began - outside) / (learner.done - first)
            print(
                f"{cell.name}: {learner.done}/{total}, "
                + ", ".join(f"{k} {v:.4g}" for k, v in logs.items())
                + f", {rate:.2f} s an update",
                flush=True,
            )
        if learner.done % every == 0 or learner.done == total:
            row = {"step": learner.done, "seconds": before + now - began - outside}
            row |= {name: value / counts[name] for name, value in sums.items()}
            row |= {f"valid_{k}": v for k, v in quick(learner, settings, text).items()}
            rows.append(row)
            if main:
                _write_lines(curve, rows)
            sums, counts = {}, {}
            told = time.perf_counter()
            outside += told - now
        if learner.done % cell.train.save_every == 0 or learner.done == total:
            now = time.perf_counter()
            state = learner.state()
            if main:
                passed = before + now - began - outside
                more = {"seconds": passed, "rows": rows, "sums": sums, "counts": counts}
                checkpoint.write(path, {**state, **more})
            outside += time.perf_counter() - now
    if main:
        _write_lines(curve, rows)  # a curve may be younger than the checkpoint that was loaded
    return learner, rows, before + time.perf_counter() - began - outside


def load_model(folder: Path, name: str, text: Text) -> tuple[Cell, ThoughtModel, Any]:
    """Returns cell, model and encoder (or None) of a trained cell, on the CPU.

    Raises:
        UserError: If there is none, or the text has another vocabulary.
    """
    path = folder / f"{name}.state.pt"
    if not path.exists():
        names = sorted(p.name.removesuffix(".state.pt") for p in folder.glob("*.state.pt"))
        raise UserError(f"{folder} holds no model {name!r}; there are: {', '.join(names)}")
    state = checkpoint.read(path)
    cell = Cell.from_record(json.loads(state["cell"]))
    try:
        check_vocabulary(str(path), text.vocabulary(), state["vocabulary"])
    except ValueError as error:
        raise UserError(str(error)) from None
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in state["modules"].items():
        kind, _, name = key.partition(".")
        weights.setdefault(kind, {})[name] = value
    return cell, *_built(cell, weights)


def _built(
    cell: Cell, weights: dict[str, dict[str, Tensor]]
) -> tuple[ThoughtModel, ThoughtEncoder | None]:
    """Returns model and encoder with the weights of "model" and "encoder"."""
    model, encoder = ThoughtModel(cell.model, generator=stream(0, "overwritten")), None
    model.load_state_dict(weights["model"])
    if "encoder" in weights:
        encoder = ThoughtEncoder(cell.model, generator=stream(0, "overwritten"))
        encoder.load_state_dict(weights["encoder"])
        encoder.eval()
    return model.eval(), encoder


def _write_lines(path: Path, rows: list[dict[str, float]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
