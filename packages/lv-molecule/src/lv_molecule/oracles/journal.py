"""The file that holds one JSON line per oracle call."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """Appends JSON lines and can go back to an earlier length.

    Length and checksum of what was written are known, so that a foreign or damaged file is noticed
    before a line is added to it.

    Arguments:
        path: The file; it must not exist yet or be the one that a state describes. Its folder is
            made when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._size = 0
        self._hash = hashlib.sha256()

    @contextmanager
    def opened(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Opens the file and yields the function that appends one flushed line.

        Raises:
            ValueError: If the file is not as long as this object left it.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._size:
            raise ValueError(
                f"log {self.path} has {size} bytes, this oracle wrote {self._size}; it is of "
                "another run: load that run's state, delete the file or choose another path"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:

            def append(record: Mapping[str, Any]) -> None:
                line = json.dumps(record, allow_nan=False).encode() + b"\n"
                # Flushed at once: a killed run keeps every finished call.
                file.write(line)
                file.flush()
                self._size += len(line)
                self._hash.update(line)

            yield append

    def state_dict(self) -> dict[str, Any]:
        """Returns length and checksum of the lines so far."""
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cuts the file back to the recorded length.

        Raises:
            ValueError: If the file is shorter or does not begin with the recorded lines; it is
                then left as it is.
        """
        size = int(state["bytes"])
        content = self.path.read_bytes() if self.path.exists() else b""
        if len(content) < size:
            raise ValueError(
                f"log {self.path} has {len(content)} bytes, the state recorded {size}; restore "
                "the log that belongs to the state or start the run again"
            )
        digest = hashlib.sha256(content[:size])
        if digest.hexdigest() != state["sha256"]:
            raise ValueError(
                f"log {self.path} is damaged or of another run: its first {size} bytes are not "
                "those of the state; restore it or start the run again"
            )
        if len(content) > size:
            os.truncate(self.path, size)
        self._size, self._hash = size, digest
