"""Worker processes that evaluate a function of a string and can be killed.

`concurrent.futures` cannot stop a call that hangs; here a worker past its time limit is killed,
with the programs it started, and replaced.
"""

import math
import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

__all__ = ["Outcome", "WorkerPool", "WorkerStartError", "evaluate"]

# Work handed to a worker at a time, in seconds: long enough to hide the parent's latency, short
# enough that the workers of a batch finish together.
CHUNK_SECONDS = 0.05
MAX_CHUNK = 64


class WorkerStartError(RuntimeError):
    """A worker process ended before it could take work."""


class Outcome(NamedTuple):
    """Result of one call: the value (NaN if it failed), its time and the reason of a failure."""

    value: float
    seconds: float
    error: str | None


def evaluate(function: Callable[[str], float], item: str) -> Outcome:
    """Returns the outcome of one call; exceptions and non-finite values are failures."""
    start = time.perf_counter()
    error = None
    try:
        value = float(function(item))
        if not math.isfinite(value):
            error, value = f"the function returned {value}", math.nan
    except Exception as exception:  # any fault of the user's function is a failed call
        text = " ".join(str(exception).split())
        error, value = f"{type(exception).__name__}: {text}", math.nan
    return Outcome(value, time.perf_counter() - start, error)


def _work(connection: Connection, function: Callable[[str], float]) -> None:
    """Body of a worker: says that it is ready, then answers item by item until the pipe closes."""
    if hasattr(os, "setsid"):
        # An own process group: killing it reaches the programs that the function started, and
        # Ctrl-C goes to the parent alone.
        os.setsid()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(None)
        while True:
            for item in connection.recv():
                connection.send(evaluate(function, item))


class _Worker:
    """One process with its pipe and the items it has not answered yet."""

    def __init__(self, function: Callable[[str], float]) -> None:
        # spawn: forking a process that has run torch or OpenMP threads may deadlock.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False
        self.items: deque[tuple[int, str]] = deque()
        self.since = time.monotonic()

    def give(self, items: Sequence[tuple[int, str]]) -> None:
        self.items.extend(items)
        self.since = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # a dead one is noticed on reading
            self.connection.send([item for _, item in items])

    def kill(self) -> int | None:
        """Ends the process and its children; returns its exit code."""
        pid = self.process.pid
        if self.ready and pid is not None and hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.connection.close()
        self.process.close()
        return code


class WorkerPool:
    """Evaluates items on worker processes, which start with the first batch and stay.

    Arguments:
        function: A picklable function of one string: one that is defined at the top of a module.
        workers: Number of processes, at least 1.
        timeout: Seconds that one item may take; None means no limit. The start of a worker does
            not count.

    Raises:
        TypeError: If the function cannot be pickled.
    """

    def __init__(
        self, function: Callable[[str], float], workers: int, *, timeout: float | None = None
    ) -> None:
        try:
            pickle.dumps(function)
        except Exception as error:  # pickle raises several types
            raise TypeError(
                f"function must be picklable for workers={workers}, got {function!r}: define it "
                "at the top of a module, or use workers=0"
            ) from error
        self._function = function
        self._count = workers
        self._timeout = timeout
        self._workers: list[_Worker] = []
        self._seconds: float | None = None

    def run(self, items: Sequence[str]) -> Generator[tuple[int, Outcome], None, None]:
        """Yields position and outcome of every item, in the order in which they finish.

        Raises:
            WorkerStartError: If a new process ends before it takes work.
        """
        queue = deque(enumerate(items))
        try:
            while queue or any(worker.items for worker in self._workers):
                busy = sum(bool(worker.items) for worker in self._workers)
                while len(self._workers) < min(self._count, busy + len(queue)):
                    self._workers.append(_Worker(self._function))
                for worker in self._workers:
                    if queue and worker.ready and not worker.items:
                        size = min(self._chunk(), math.ceil(len(queue) / self._count))
                        worker.give([queue.popleft() for _ in range(size)])
                # Copies: a worker that died is replaced in the list.
                readable = wait([w.connection for w in self._active()], self._patience())
                for worker in self._active():
                    if worker.connection in readable:
                        yield from self._read(worker, queue)
                    elif self._late(worker) and not worker.connection.poll():
                        error = f"no answer within timeout={self._timeout} s"
                        yield from self._replace(worker, queue, error)
        finally:
            for worker in [w for w in self._workers if w.items]:  # left early: answers are stale
                self._workers.remove(worker)
                worker.kill()

    def close(self) -> None:
        """Kills all workers; a later `run` starts new ones."""
        while self._workers:
            self._workers.pop().kill()

    def _active(self) -> list[_Worker]:
        return [w for w in self._workers if w.items or not w.ready]

    def _chunk(self) -> int:
        if self._seconds is None:
            return 1
        return max(1, min(MAX_CHUNK, int(CHUNK_SECONDS / max(self._seconds, 1e-6))))

    def _patience(self) -> float | None:
        busy = [worker.since for worker in self._workers if worker.items]
        if self._timeout is None or not busy:
            return None
        return max(0.0, min(busy) + self._timeout - time.monotonic())

    def _late(self, worker: _Worker) -> bool:
        if self._timeout is None or not worker.items:
            return False
        return time.monotonic() - worker.since >= self._timeout

    def _read(
        self, worker: _Worker, queue: deque[tuple[int, str]]
    ) -> Iterator[tuple[int, Outcome]]:
        try:
            while worker.connection.poll():
                outcome: Outcome | None = worker.connection.recv()
                if outcome is None:
                    worker.ready = True
                    continue
                worker.since = time.monotonic()
                seconds = outcome.seconds
                self._seconds = (
                    seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * seconds
                )
                yield worker.items.popleft()[0], outcome
        except (EOFError, ConnectionResetError):
            yield from self._replace(worker, queue, None)

    def _replace(
        self, worker: _Worker, queue: deque[tuple[int, str]], error: str | None
    ) -> Iterator[tuple[int, Outcome]]:
        """Kills a worker, fails its current item and puts the others back."""
        seconds = time.monotonic() - worker.since
        self._workers.remove(worker)
        items, ready = worker.items, worker.ready
        if error is None:
            # Its pipe closes before it has written its traceback and its exit code.
            worker.process.join(timeout=5.0)
        code = worker.kill()
        if not ready:
            raise WorkerStartError(
                f"a worker ended with exit code {code} before it took work; its error is above: "
                "can the function be imported, and does the script guard its main program with "
                "`if __name__ == '__main__'`?"
            )
        if items:
            position, _ = items.popleft()
            queue.extendleft(reversed(items))
            reason = error or f"the worker process died with exit code {code}"
            yield position, Outcome(math.nan, seconds, reason)
