"""One model: slow learning of its decoder around the fast learning of latents."""

import json
import math
import time
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
        """Takes one update; returns its numbers, means over this process's tokens."""
        plan = self.cell.train
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(self.done)
        batch = self.store.read(self.order.step(self.done)).to(self.device)
        tokens = self._everywhere((batch.y != IGNORED).sum())
        logs: dict[str, float] = {}
        parts = list(_split(batch, plan.micro_batch))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            for name, value in self._gather(part, tokens, sync=last).items():
                logs[name] = logs.get(name, 0.0) + value
        own = float((batch.y != IGNORED).sum())
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
        return {name: value / own for name, value in logs.items()} | {"norm": float(norm)}

    def infer(self, batch: Batch, targets: Tensor) -> Inferred:
        """Returns the latents of training sequences, from noise that is their own."""
        plan, cell = self.cell.train, self.cell
        settings = cell.inference
        if plan.kl_warm_up > 0:
            done = (self.done + 1) / (plan.kl_warm_up * plan.iterations)
            settings = replace(settings, kl_weight=settings.kl_weight * min(1.0, done))
        start = None
        if self.bank is not None and self.done * plan.batch_size >= len(self.store):
            mean, log_scale = self.bank.get(batch.index.cpu()).to(self.device).unbind(1)
            start = DiagonalGaussian(mean, log_scale, event_ndim=3)
        found = infer(
            self.model,
            batch.x,
            targets,
            settings,
            encoder=self.encoder,
            start=start,
            generator=Rows.of(cell.seed, batch.index, "inference", self.done),
        )
        if self.bank is not None and found.q is not None:
            both = torch.stack((found.q.mean, found.q.log_scale), 1)
            self.bank.put(batch.index.cpu(), both.cpu())
        return found

    def lr_at(self, step: int) -> float:
        """Returns the step size: linear warm-up, then a cosine."""
        plan = self.cell.train
        if step < plan.warm_up:
            return plan.lr * (step + 1) / plan.warm_up
        share = (step - plan.warm_up) / max(1, plan.iterations - plan.warm_up)
        cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        return plan.lr * (plan.lr_end + (1 - plan.lr_end) * cosine)

    # State

    def state(self, seconds: float) -> dict[str, Any]:
        """Returns a checkpoint, the same whether parameters are whole, copied or sharded."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        container = nn.ModuleDict(self.modules)
        modules, optimizer = get_state_dict(container, self.optimizer, options=options)
        return {
            "done": self.done,
            "seconds": seconds,
            "vocabulary": self.vocabulary.fingerprint,
            "cell": json.dumps(self.cell.record()),
            "modules": modules,
            "optimizer": optimizer,
            "bank": None if self.bank is None else self.bank.state_dict(),
        }

    def load(self, state: dict[str, Any], path: Path) -> float:
        """Goes on where `state` was taken; returns the seconds spent before.

        Raises:
            UserError: If it is of another model or vocabulary.
        """
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        if json.loads(state["cell"]) != json.loads(json.dumps(self.cell.record())):
            raise UserError(f"{path} was made with other settings; choose another --out")
        _same_vocabulary(self, state, path)
        container = nn.ModuleDict(self.modules)
        set_state_dict(
            container,
            self.optimizer,
            model_state_dict=state["modules"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(full_state_dict=True, cpu_offload=True),
        )
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])
        self.done = state["done"]
        return float(state["seconds"])

    # Parts

    def _place(self) -> None:
        """Moves the modules to the device and prepares them for several processes."""
        self.wrapped: dict[str, nn.Module] = {}
        for name, module in self.modules.items():
            module.to(self.device)
            if self.accelerator.num_processes == 1:
                self.wrapped[name] = module
            elif self.settings.fsdp:
                self.wrapped[name] = _sharded(module)
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
        if not self.cell.train.warm_start or self.cell.kind != "thought":
            return None
        return ChainBank(len(self.store), (2, *self.cell.model.event), seed=self.cell.seed)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules.values() for p in module.parameters()]

    def _everywhere(self, count: Tensor) -> float:
        """Returns the sum over processes."""
        return float(self.accelerator.reduce(count.to(torch.float64), "sum"))

    def _gather(self, part: Batch, tokens: float, *, sync: bool) -> dict[str, float]:
        """Adds the gradient of one micro-batch; returns summed nats."""
        world = self.accelerator.num_processes
        plan = self.cell.train
        kind = "ar" if self.done < plan.late * plan.iterations else self.cell.kind
        z, logs, path = None, {}, None
        extra = torch.zeros((), device=self.device)
        if kind == "encoder":
            q = self.wrapped["encoder"](part.x, part.y)
            rows = Rows.of(self.cell.seed, part.index, "inference", self.done)
            z, kl = q.rsample(normal(q.mean, rows)), q.kl()
            weight = 1.0
            if plan.kl_warm_up > 0:
                weight = min(1.0, (self.done + 1) / (plan.kl_warm_up * plan.iterations))
            extra, logs["kl"] = weight * kl.sum(), float(kl.sum().detach())
        elif kind == "thought":
            known = part.y
            if plan.known < 1:
                split = max(1, round(plan.known * part.y.shape[1]))
                place = torch.arange(part.y.shape[1], device=self.device)
                known = part.y.masked_fill(place >= split, IGNORED)
            with torch.no_grad(), self._recording() as path:
                found = self.infer(part, known)
            z = found.z
            logs |= {"kl": float(found.kl.sum())}
            if found.kl_floor is not None:
                logs["kl_floor"] = float(found.kl_floor.sum())
            if self.encoder is not None and found.q is not None:
                # the encoder follows the fit: KL(fitted q, its guess)
                extra = found.q.kl(self.wrapped["encoder"](part.x, known)).sum()
        with self._syncing(sync and not path):
            nll = self.wrapped["model"](part.x, part.y, z).sum()
            loss = (nll + extra) / tokens * world  # DDP takes the mean over processes
            loss.backward()
        for number, seen in enumerate(path or ()):
            # What the release lets leak: gradients of the fast steps, summed over tokens.
            with self._syncing(sync and number == len(path or ()) - 1):
                (self.wrapped["model"](part.x, part.y, seen).sum() * world).backward()
        return logs | {"nll": float(nll.detach())}

    def _recording(self) -> "_Path":
        return _Path(self.model, active=self.cell.train.slow_grad == "path_sum")

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


def _sharded(module: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    fully_shard(module)
    for name in getattr(module, "sharded_methods", ()):
        register_fsdp_forward_method(module, name)
    return module


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
    before = 0.0
    if path.exists():
        before = learner.load(checkpoint.read(path), path)
    rows = _rows(curve, learner.done)
    total = cell.train.iterations
    every = settings.evaluate.every or max(1, total // 10)
    began = told = time.perf_counter()
    outside, sums, count = 0.0, {}, 0
    while learner.done < total:
        logs = learner.step()
        count += 1
        for name, value in logs.items():
            sums[name] = sums.get(name, 0.0) + value
        now = time.perf_counter()
        if main and now - told > 15:
            told = now
            rate = (now - began - outside) / max(1, count)
            print(
                f"{cell.name}: {learner.done}/{total}, "
                + ", ".join(f"{k} {v:.4g}" for k, v in logs.items())
                + f", {rate:.2f} s an update",
                flush=True,
            )
        if learner.done % every == 0 or learner.done == total:
            row = {"step": learner.done, "seconds": before + now - began - outside}
            row |= {name: value / count for name, value in sums.items()}
            row |= {f"valid_{k}": v for k, v in quick(learner, settings, text).items()}
            rows.append(row)
            if main:
                curve.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
            sums, count = {}, 0
            outside += time.perf_counter() - now
            began, told = began, time.perf_counter()
        if learner.done % cell.train.save_every == 0 or learner.done == total:
            now = time.perf_counter()
            state = learner.state(before + now - began - outside)
            if main:
                checkpoint.write(path, state)
            outside += time.perf_counter() - now
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
    parts = {}
    for kind, module in (("model", ThoughtModel), ("encoder", ThoughtEncoder)):
        weights = {
            key.removeprefix(f"{kind}."): value
            for key, value in state["modules"].items()
            if key.startswith(f"{kind}.")
        }
        if weights:
            made = module(cell.model)
            made.load_state_dict(weights)
            parts[kind] = made.eval()
    return cell, parts["model"], parts.get("encoder")


def _rows(path: Path, done: int) -> list[dict[str, float]]:
    """Returns the rows of a curve up to the update `done`."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [row for row in rows if row["step"] <= done]
