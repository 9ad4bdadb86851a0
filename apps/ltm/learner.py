"""A model in training: slow learning of its decoder around the fast learning of latents."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from apps._runner import UserError
from apps.ltm.cells import Cell
from apps.ltm.compiling import compiled_upper
from apps.ltm.data import Text
from apps.ltm.distributed import gathered, spread, syncing
from apps.ltm.path_sum import visited
from apps.ltm.scores import IGNORED
from apps.ltm.settings import Settings
from apps.ltm.state import module_state, optimizer_state, put_module, put_optimizer
from lv_core import DiagonalGaussian, Rows, normal, stream
from lv_core.bank import ChainBank
from lv_text import Batch, Inferred, ThoughtEncoder, ThoughtModel, check_vocabulary, infer

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

__all__ = ["Learner", "built"]


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
        for module in self.modules.values():
            module.to(self.device)
        self.sharded = settings.fsdp and world > 1
        # without latents cross-attention gets no gradient
        idle = cell.kind == "ar" or plan.late > 0
        self.wrapped = {
            name: module if world == 1 else spread(module, sharded=self.sharded, idle=idle)
            for name, module in self.modules.items()
        }
        self._compiled = torch.compile(self.model.decoder.upper) if plan.compile else None
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
        with compiled_upper(self.model, self._compiled):
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
        with gathered(self.modules.values(), sharded=self.sharded):
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
        model, encoder = built(self.cell, weights)
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
        try:
            check_vocabulary(str(path), self.vocabulary, state["vocabulary"])
        except ValueError as error:
            raise UserError(str(error)) from None
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
            recorded = plan.slow_grad == "path_sum"
            with torch.no_grad(), visited(self.model, active=recorded) as path:
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
            with syncing(self.wrapped.values(), now=False):
                nll = self.wrapped["model"](x, y, latent).sum()
                (nll * (world / cell.inference.samples)).backward()
        # Last, as this one may be exchanged: it is the only one in which all modules take part.
        with syncing(self.wrapped.values(), now=sync):
            nll = self.wrapped["model"](part.x, part.y, z).sum()
            loss = (nll + extra) / tokens * world  # DDP takes the mean over processes
            loss.backward()
        return logs | {"nll": float(nll.detach())}


def _split(batch: Batch, size: int) -> Iterator[Batch]:
    for first in range(0, len(batch.x), size):
        yield Batch(**{name: part[first : first + size] for name, part in vars(batch).items()})


def built(
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
