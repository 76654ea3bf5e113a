"""Messages between two machines that have nothing but a folder in common: lines of JSON, a file for each direction.

A reader opens its file anew each time, for network file systems show what was written when the writer has closed it. An empty
line is a sign of life: whoever hears nothing for SILENCE seconds may take the other one for gone. No clocks are compared.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POLL, BEAT, SILENCE = 0.25, 10.0, 60.0  # seconds between looks, between signs of life, until nobody is there


class Outbox:
    """The file that this process writes. Threads may share it."""

    def __init__(self, path: Path):
        self.path, self._said, self._lock = path, time.monotonic(), threading.Lock()

    def send(self, message: dict[str, Any] | None) -> None:
        """Appends a message by one write; None is the sign of life. Raises OSError."""
        line = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        with self._lock, open(self.path, "ab", buffering=0) as file:
            if file.write(line) != len(line):
                raise OSError(28, "No space left on device", str(self.path))
            self._said = time.monotonic()

    def beat(self) -> None:
        """Called often, it gives a sign of life when one is due."""
        if time.monotonic() - self._said > BEAT:
            self.send(None)


class Inbox:
    """The file that the other one writes."""

    def __init__(self, path: Path):
        self.path, self._heard, self._offset, self._rest = path, time.monotonic(), 0, b""

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come since. Raises OSError if there is no such file, ValueError if a line is no message."""
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        if data:
            self._heard, self._offset = time.monotonic(), self._offset + len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = [json.loads(line) for line in lines if line]
        if not all(isinstance(message, dict) for message in found):
            raise ValueError("a message is an object")
        return found

    @property
    def silent(self) -> bool:
        """Whether there has been no sign of life for too long; to be asked right after `receive`."""
        return time.monotonic() - self._heard > SILENCE

    def messages(self, outbox: Outbox) -> Iterator[dict[str, Any]]:
        """Waits for messages, giving signs of life; ends when the file is removed or damaged, or nobody is there."""
        while True:
            try:
                yield from self.receive()
                outbox.beat()
            except (OSError, ValueError):
                return
            if self.silent:
                return
            time.sleep(POLL)
