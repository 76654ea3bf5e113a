"""Messages between two machines through files in a shared folder: JSON lines, one file per direction.

A reader reopens its file for every read: network file systems show what was written after the writer closed it. An empty line
is a heartbeat; a peer that is silent for SILENCE seconds is presumed dead. No clocks are compared.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cnn_jax.aliases import JsonObject

POLL, HEARTBEAT, SILENCE = 0.25, 10.0, 60.0  # seconds between reads, between heartbeats, until a silent peer is presumed dead


class Outbox:
    """File of outgoing messages. Threads may share it."""

    def __init__(self, path: Path):
        self.path, self._sent, self._lock = path, time.monotonic(), threading.Lock()

    def send(self, message: JsonObject | None) -> None:
        """Appends a message by one write; None is a heartbeat. Raises OSError."""
        line = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        with self._lock, open(self.path, "ab", buffering=0) as file:
            if file.write(line) != len(line):
                raise OSError(28, "No space left on device", str(self.path))
            self._sent = time.monotonic()

    def heartbeat(self) -> None:
        """Send a heartbeat if one is due."""
        if time.monotonic() - self._sent > HEARTBEAT:
            self.send(None)


class Inbox:
    """File of incoming messages."""

    def __init__(self, path: Path):
        self.path, self._received, self._offset, self._rest = path, time.monotonic(), 0, b""

    def receive(self) -> list[JsonObject]:
        """Return the messages since the last call. Raises OSError without a file, ValueError for a line without a message."""
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        if data:
            self._received, self._offset = time.monotonic(), self._offset + len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = [json.loads(line) for line in lines if line]
        if not all(isinstance(message, dict) for message in found):
            raise ValueError("a message is an object")
        return found

    @property
    def silent(self) -> bool:
        """Whether the last message or heartbeat is older than SILENCE; valid right after `receive`."""
        return time.monotonic() - self._received > SILENCE

    def messages(self, outbox: Outbox) -> Iterator[JsonObject]:
        """Yield messages and send heartbeats; ends when the file is removed or damaged, or the peer is presumed dead."""
        while True:
            try:
                yield from self.receive()
                outbox.heartbeat()
            except (OSError, ValueError):
                return
            if self.silent:
                return
            time.sleep(POLL)
