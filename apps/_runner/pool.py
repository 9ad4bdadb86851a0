"""Pieces of work one after the other, or several at a time as processes."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from apps._runner.settings import UserError

__all__ = ["run_pieces"]

Record = dict[str, Any]


def run_pieces(
    work: Callable[..., Record], pieces: Sequence[tuple[Any, ...]], *, processes: int
) -> list[Record]:
    """Returns `work(*piece)` for each piece, in their order.

    Arguments:
        work: A function of a module (spawned processes import it), which returns at once what an
            earlier session finished. Its record holds a "name" for the line of progress.
        pieces: Its arguments.
        processes: How many at a time; 1 = all in this process.

    Raises:
        UserError: If a process was ended from outside.
    """
    began = time.perf_counter()
    if processes == 1 or len(pieces) < 2:
        found = []
        for number, piece in enumerate(pieces, 1):
            found.append(work(*piece))
            _tell(number, len(pieces), found[-1], began)
        return found
    # Ctrl-C is handled here alone: the children are ended with the pool.
    old = signal.signal(signal.SIGTERM, _stop)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_child)
    records: dict[int, Record] = {}
    try:
        futures = {pool.submit(work, *piece): place for place, piece in enumerate(pieces)}
        for number, future in enumerate(as_completed(futures), 1):
            records[futures[future]] = future.result()
            _tell(number, len(pieces), future.result(), began)
    except BrokenProcessPool:
        raise UserError(
            "a process was ended from outside (out of memory?); what is finished is kept: go on "
            "with --resume True, perhaps with --processes 1"
        ) from None
    except BaseException:
        for child in (pool._processes or {}).values():
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        signal.signal(signal.SIGTERM, old)
    return [records[place] for place in range(len(pieces))]


def _tell(number: int, total: int, record: Record, began: float) -> None:
    minutes = (time.perf_counter() - began) / 60
    print(f"[{number}/{total}] {record['name']}, {minutes:.1f} min", file=sys.stderr, flush=True)


def _child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt
