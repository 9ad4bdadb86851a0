"""One run of an app: its folder, randomness, metrics and checkpoints."""

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm  # type: ignore[import-untyped]

from apps._runner import checkpoint, environment, report
from apps._runner.settings import RunSettings, UserError, flatten
from lv_core.random import stream

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

__all__ = ["Run", "write_json"]


class Run:
    """Opens the run folder and sets up the process; the app keeps its loop.

    Attributes:
        settings: The app's settings.
        folder: Where everything is written; by default `runs/<app>/<preset>`.
        device: CPU, or this process's GPU.
        rank: Number of this process in its torchrun group.
        world: Number of processes.
        is_main: Whether this is rank 0, which alone writes and prints.
    """

    def __init__(
        self,
        settings: RunSettings,
        *,
        app: str,
        preset: str,
        argv: Sequence[str] = (),
        may_change: Sequence[str] = (),
    ) -> None:
        """Opens the folder.

        Arguments:
            settings: The app's settings.
            app: Name of the app's folder under apps/.
            preset: Name of the preset, as returned by `parse`.
            argv: Words of the command line, for the record.
            may_change: Settings such as "train.steps" that may differ when resuming.

        Raises:
            UserError: If the folder holds a run that the settings do not allow to continue.
        """
        self.settings, self.app, self.preset = settings, app, preset
        self.folder = Path(settings.out or f"runs/{app}/{preset}")
        self.rank, self.world = (
            int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1))
        )
        self.is_main = self.rank == 0
        self.device = _set_up_process(settings)
        torch.manual_seed(settings.seed)  # the one seeding line: initial weights, dropout
        self._values = json.loads(json.dumps(asdict(settings), default=str))
        self._may_change = tuple(may_change)
        self._before, self._start = 0.0, time.perf_counter()
        self._resuming = settings.resume
        self._keep: int | None = None  # bytes of metrics.jsonl that loaded checkpoints vouch for
        self._shown: dict[str, float] = {}
        if self.world > 1:
            self.accelerator  # noqa: B018 - creates the process group
        self.on_main(self._open, argv)

    @cached_property
    def accelerator(self) -> "Accelerator":
        """The Accelerator that wraps models for several processes; made at first use."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

        if self.world == 1:
            AcceleratorState._reset_state()  # an earlier run in this process had its own precision
        # Without cpu=True accelerate ignores torchrun where there is no GPU: all would be rank 0.
        precision = "bf16" if self.settings.precision == "bf16" else "no"
        return Accelerator(cpu=self.device.type == "cpu", mixed_precision=precision)

    @property
    def seconds(self) -> float:
        """Time spent on the run, earlier sessions included."""
        return self._before + time.perf_counter() - self._start

    def generator(self, *names: str | int) -> torch.Generator:
        """Returns the stream of these names on the run's device: a function of seed and names."""
        return stream(self.settings.seed, *names, device=self.device)

    def reseed(self, *names: str | int) -> None:
        """Reseeds torch's global generator, from which dropout draws, from seed and names."""
        torch.manual_seed(stream(self.settings.seed, *names).initial_seed())

    def share(self, batch_size: int) -> int:
        """Returns this process's part of a batch size given over all processes."""
        if batch_size % self.world:
            raise UserError(f"batch size {batch_size} does not divide by {self.world} processes")
        return batch_size // self.world

    def data(self, name: str) -> Path:
        """Returns the folder of a data set, fetching it when needed, and records its checksums."""
        from apps._runner.data import resolve

        self.on_main(self._fetch, name)  # the others wait while rank 0 downloads and converts
        return resolve(name, self.settings.data)

    def steps(self, total: int, start: int = 0, label: str = "train") -> Iterator[int]:
        """Yields start, ..., total - 1 and shows progress with the last logged values.

        A terminal gets a bar; elsewhere one line every 5 seconds goes to stderr.
        """
        if not self.is_main:
            yield from range(start, total)
        elif sys.stderr.isatty():
            with tqdm(total=total, initial=start, desc=label, dynamic_ncols=True) as bar:
                for step in range(start, total):
                    yield step
                    bar.set_postfix(self._shown, refresh=False)
                    bar.update()
        else:
            yield from self._plain_steps(total, start, label)

    def log(self, step: int, split: str = "train", **values: float | Tensor) -> None:
        """Appends one line to metrics.jsonl; rank 0 only, nothing is reduced over processes."""
        if not self.is_main:
            return
        self._truncate()
        numbers = {key: float(value) for key, value in values.items()}
        self._shown = {key: float(f"{value:.4g}") for key, value in numbers.items()}
        line = {"step": step, "seconds": round(self.seconds, 3), "split": split, **numbers}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")

    def save(
        self,
        step: int,
        name: str = "state",
        *,
        modules: Mapping[str, nn.Module] | None = None,
        optimizers: Mapping[str, Optimizer] | None = None,
        **plain: object,
    ) -> None:
        """Writes `<name>.pt` whole or not at all; all processes call it, rank 0 writes.

        Arguments:
            step: Number of updates done; `load` returns it.
            name: Name of the file without ending.
            modules: Models by name, plain or wrapped by DDP.
            optimizers: Optimisers by name.
            plain: Anything made of tensors, arrays, numbers, strings, lists and dicts. What
                differs between processes must be gathered by the app.
        """
        states = checkpoint.gather(modules or {}, optimizers or {})
        content = {key: checkpoint.plain(value, key) for key, value in plain.items()}
        if not self.is_main:
            return
        self._truncate()
        metrics = self.folder / "metrics.jsonl"
        record = {
            "app": self.app,
            "step": step,
            "seconds": self.seconds,
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
            "settings": flatten(self._values),
        }
        checkpoint.write(self.folder / f"{name}.pt", {**record, **states, "plain": content})

    def load(
        self,
        name: str = "state",
        *,
        modules: Mapping[str, nn.Module] | None = None,
        optimizers: Mapping[str, Optimizer] | None = None,
    ) -> dict[str, Any] | None:
        """Restores modules and optimisers in place from `<name>.pt`.

        In a resumed run, lines of metrics.jsonl that are younger than the checkpoint (the
        youngest, if several are loaded) are dropped at the next `log`, `save` or `finish`.

        Returns:
            The plain values given to `save` and "step", tensors on the CPU; None when there is
            no such file.

        Raises:
            UserError: If the file is damaged, foreign, of other settings or another model.
        """
        path = self.folder / f"{name}.pt"
        if not path.exists():
            return None
        content = checkpoint.read(path)
        if content["app"] != self.app:
            raise UserError(f"{path} is of the app {content['app']!r}, not {self.app!r}")
        checkpoint.check_settings(
            path, content["settings"], flatten(self._values), self._may_change
        )
        checkpoint.restore(path, content, modules or {}, optimizers or {})
        if self._resuming:
            self._keep = max(self._keep or 0, content["metrics_bytes"])
            if content["seconds"] > self._before:
                self._before, self._start = content["seconds"], time.perf_counter()
        return {**content["plain"], "step": content["step"]}

    def weights(self, module: nn.Module, config: Mapping[str, Any]) -> None:
        """Writes model.safetensors with `config` as JSON in its metadata under "config"."""
        from safetensors.torch import save_file

        state = checkpoint.gather({"model": module}, {})["modules"]["model"]
        if self.is_main:
            tensors = {key: value.clone().contiguous() for key, value in state.items()}
            save_file(tensors, self.folder / "model.safetensors", {"config": json.dumps(config)})

    def finish(
        self,
        metrics: Mapping[str, Any],
        claims: Sequence[Mapping[str, Any]] = (),
        figures: Mapping[str, object] | None = None,
        *,
        tables: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
        notes: str = "",
        seeds: Sequence[int] = (),
    ) -> dict[str, Any]:
        """Writes result.json and the report, and prints the claims and where the report is.

        Arguments:
            metrics: Final numbers by name; nested tables are allowed.
            claims: Dicts with the keys "claim", "paper", "ours" and "holds" (bool).
            figures: See `report.save_figures`; curves of metrics.jsonl are added.
            tables: Title to rows for the report, e.g. of the best samples.
            notes: What this is, for the head of the report.
            seeds: All seeds behind the numbers; by default that of the settings.

        Returns:
            The content of result.json.

        Raises:
            SystemExit: Status 1, with `check=True`, if a claim does not hold.
        """
        report.check_claims(claims)
        result: dict[str, Any] = {"app": self.app, "preset": self.preset}
        if self.is_main:
            result = self._write_result(metrics, claims, seeds or (self.settings.seed,))
            shown = report.save_figures(self.folder, self._with_curves(figures or {}))
            record = json.loads((self.folder / "run.json").read_text("utf-8"))
            page = report.write_report(self.folder, result, record, shown, tables or {}, notes)
            for claim in result["claims"]:
                print("  ".join(f"{key}: {report.number(claim[key])}" for key in claim))
            print(f"report: {page}")
        if self.settings.check and not all(claim["holds"] for claim in claims):
            raise SystemExit(1)
        return result

    def publish(self, results: Path) -> Path:
        """Writes the numbers worth keeping to `<results>/<app>/<preset>-<device>.json`."""
        from apps._runner import table  # a program of its own: imported here, it runs unwarned

        return table.publish(self.folder, results)

    def _with_curves(self, figures: Mapping[str, object]) -> Mapping[str, object]:
        if "Curves" in figures or (drawn := report.curves(self.folder)) is None:
            return figures
        return {**figures, "Curves": (drawn, "Logged values against the step.")}

    def _write_result(
        self, metrics: Mapping[str, Any], claims: Sequence[Mapping[str, Any]], seeds: Sequence[int]
    ) -> dict[str, Any]:
        self._truncate()
        session = json.loads((self.folder / "run.json").read_text("utf-8"))["sessions"][-1]
        result = {
            "app": self.app,
            "preset": self.preset,
            "device": self.device.type,
            "seeds": seeds,
            **{key: session[key] for key in ("commit", "dirty", "hardware", "versions")},
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": round(self.seconds, 1),
            "settings": self._values,
            "metrics": metrics,
            "claims": [{**claim, "holds": bool(claim["holds"])} for claim in claims],
        }
        write_json(self.folder / "result.json", result)
        written: dict[str, Any] = json.loads((self.folder / "result.json").read_text("utf-8"))
        return written

    def on_main(self, function: Callable[..., None], *args: object) -> None:
        """Calls on rank 0; a UserError there is raised in all processes, so that none waits."""
        told = [""]
        if self.is_main:
            try:
                function(*args)
            except UserError as error:
                told[0] = str(error)
        if self.world > 1:
            torch.distributed.broadcast_object_list(told, device=self.device)
        if told[0]:
            raise UserError(told[0])

    def _fetch(self, name: str) -> None:
        from apps._runner.data import checksums, resolve

        record = json.loads((self.folder / "run.json").read_text("utf-8"))
        record["data"][name] = checksums(name, resolve(name, self.settings.data))
        write_json(self.folder / "run.json", record)

    def _open(self, argv: Sequence[str]) -> None:
        """Refuses a folder that must not be touched, then writes run.json."""
        folder, resume = self.folder, self.settings.resume
        has_checkpoint = any(folder.glob("*.pt"))
        if resume and not has_checkpoint:
            raise UserError(
                f"there is no checkpoint in {folder} to resume from; leave out --resume"
                + (" and choose another --out" if (folder / "run.json").exists() else "")
            )
        if not resume and (folder / "result.json").exists():
            raise UserError(f"{folder} holds a finished run; use --resume True or another --out")
        if not resume and (folder / "run.json").exists():
            advice = "use --resume True or another --out"
            if not has_checkpoint:
                advice = "it has no checkpoint yet: remove it or use another --out"
            raise UserError(f"{folder} holds an unfinished run; {advice}")
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "result.json").exists():  # until it finishes again, the run is unfinished
            (folder / "result.json").replace(folder / "result.previous.json")
        write_json(folder / "run.json", self._record(argv))

    def _record(self, argv: Sequence[str]) -> dict[str, Any]:
        """Returns run.json: settings, data and one entry per session."""
        path = self.folder / "run.json"
        session = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", f"apps.{self.app}", *argv]),
            **environment.commit(),
            "versions": environment.versions(),
            "hardware": environment.hardware(self.device, self.world),
        }
        record: dict[str, Any] = {"app": self.app, "preset": self.preset, "settings": self._values}
        record |= {"data": {}, "sessions": []}
        if self.settings.resume and path.exists():
            record = json.loads(path.read_text("utf-8"))  # kept as it was
        record["sessions"].append(session)
        return record

    def _truncate(self) -> None:
        """Drops the lines that were written after the checkpoint this session began with."""
        path = self.folder / "metrics.jsonl"
        if self._keep is not None and path.exists():
            os.truncate(path, min(self._keep, path.stat().st_size))
        self._keep, self._resuming = None, False

    def _plain_steps(self, total: int, start: int, label: str) -> Iterator[int]:
        began = told = time.monotonic()
        for step in range(start, total):
            yield step
            now = time.monotonic()
            if now - told >= 5 or step == total - 1:
                told = now
                shown = ", ".join(f"{key}={value}" for key, value in self._shown.items())
                meter = tqdm.format_meter(
                    step + 1,
                    total,
                    now - began,
                    prefix=label,
                    initial=start,
                    ncols=0,
                    postfix=shown,
                )
                print(meter, file=sys.stderr, flush=True)


def write_json(path: Path, content: object) -> None:
    """Writes strict JSON (NaN and infinities become null) under a temporary name first."""
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(_finite(content), indent=1, allow_nan=False, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)  # type: ignore[arg-type]  # tensors and NumPy numbers too
    return number if math.isfinite(number) else None


def _set_up_process(settings: RunSettings) -> torch.device:
    """Sets threads and modes of torch; returns the device of this process."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU; use --device cpu")
    if settings.threads > 0:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if settings.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if not settings.deterministic:
        torch.set_float32_matmul_precision("high")  # TF32
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
