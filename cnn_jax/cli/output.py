"""Standard output, which may go away under a sweep: `| head`, `> log` on a disk that is full. The sweep goes on without it."""

import os
import sys
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console


def console() -> Console:
    """Where a sweep tells how it goes; into a file or a pipe, tables are as wide as they need to be."""
    stream = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (it may have been closed, as by `>&-`)
    return Console(file=_Lasting(stream), width=None if stream.isatty() else 160)  # type: ignore[arg-type]


def discard(stream: IO[str]) -> None:
    """From now on, what is written to `stream` goes nowhere; what it still holds too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def warn(lines: Iterable[str]) -> None:
    """Prints each warning on a line of standard error."""
    for line in lines:
        print("warning: " + " ".join(line.split()), file=sys.stderr)


class _Lasting:
    """A stream whose writes always succeed."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            discard(self._stream)
