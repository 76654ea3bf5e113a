"""Several machines that share the trials of a sweep, and a folder. The same command runs on each of them.

Host 0 has the queue. It starts workers on its own machine and, through a mailbox in the folder of the sweep, on the machines
of the others, which write records and checkpoints directly into the folder. Hosts may join late and leave; a host that is
silent is presumed dead, and its tasks are requeued.

    DIR/hosts/HOST/NAME/tasks.jsonl     to a host: its session ends when this file is removed
    DIR/hosts/HOST/NAME/events.jsonl    from it
    DIR/hosts/over                      the command on host 0 has ended
"""

import contextlib
import dataclasses
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cnn_jax.aliases import JsonObject
from cnn_jax.execution.backends.local import LocalBackend
from cnn_jax.execution.backends.mailbox import HEARTBEAT, POLL, Inbox, Outbox
from cnn_jax.execution.messages import Assignment, Event, Lost, WorkerConfig
from cnn_jax.execution.scheduler import STOP_SECONDS
from cnn_jax.records import store

_HOME, _TASKS, _EVENTS, _OVER = "hosts", "tasks.jsonl", "events.jsonl", "over"


class TrialHosts:
    """Workers on this machine, host 0, and on the others."""

    def __init__(self, config: WorkerConfig, workers: int | None, hosts: int):
        """workers: of this machine, as for `LocalBackend`; the others have their own."""
        self.config, self.here = config, LocalBackend(config, workers)
        self.most_lanes = self.here.most_lanes
        self.home = Path(config.out) / _HOME
        with store.reporting(config.out):
            shutil.rmtree(self.home, ignore_errors=True)  # of a killed host 0: sessions with it end now
            self.home.mkdir(mode=0o700)
        self.others = {host: self._peer(host) for host in range(1, hosts)}
        self.at: dict[int, int] = {}  # host of each worker

    def _peer(self, host: int) -> "_Peer":
        folder = self.home / str(host) / secrets.token_hex(8)
        with store.reporting(self.config.out):
            folder.mkdir(parents=True)
            peer = _Peer(Outbox(folder / _TASKS), Inbox(folder / _EVENTS))
            peer.outbox.send({"config": dataclasses.asdict(self.config)})
        return peer

    @property
    def size(self) -> int:
        return self.here.size + sum(peer.size for peer in self.others.values())

    def start(self, number: int) -> None:
        sizes = {0: self.here.size} | {host: peer.size for host, peer in self.others.items()}
        at = list(self.at.values())
        host = self.at[number] = max(sizes, key=lambda host: sizes[host] - at.count(host))
        if host:
            self._tell(host, {"start": number})
        else:
            self.here.start(number)

    def send(self, number: int, task: Assignment) -> None:
        if host := self.at[number]:
            self._tell(host, {"send": number, "task": dataclasses.asdict(task)})
        else:
            self.here.send(number, task)

    def release(self, number: int) -> None:
        if host := self.at[number]:
            self._tell(host, {"release": number})
        else:
            self.here.release(number)

    def _tell(self, host: int, message: JsonObject) -> None:
        with store.reporting(self.config.out):
            self.others[host].outbox.send(message)

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        events = self.here.poll(seconds)
        for host, peer in self.others.items():
            with store.reporting(self.config.out):
                peer.outbox.heartbeat()
            found, trouble = peer.receive()
            events += found
            if trouble:
                lost = Lost(f"host {host} {trouble}")
                ended = {number for number, event in events if isinstance(event, Lost)}
                events += [(number, lost) for number, at in self.at.items() if at == host and number not in ended]
                peer.end()
                self.others[host] = self._peer(host)  # it may come back
        for number, event in events:
            if isinstance(event, Lost):
                self.at.pop(number, None)
        return events

    def shutdown(self, seconds: float) -> None:
        for peer in self.others.values():
            peer.end()
        self.here.shutdown(seconds)


@dataclasses.dataclass
class _Peer:
    """Another host. `size`: workers that can run there; 0 before it has joined."""

    outbox: Outbox
    inbox: Inbox
    size: int = 0

    def receive(self) -> tuple[list[tuple[int, Event]], str]:
        """Return the events of its workers since the last call, and what happened to it if it is gone."""
        events: list[tuple[int, Event]] = []
        try:
            for message in self.inbox.receive():
                if "left" in message:
                    return events, "has left"
                self.size = message.get("size", self.size)
                if "event" in message:
                    events.append((message["number"], Event.from_json(message["event"])))
        except FileNotFoundError:  # it has not joined
            return events, ""
        except (OSError, ValueError, KeyError) as error:
            return events, f"sends what cannot be read ({error})"
        return events, "is silent and presumed dead" if self.inbox.silent else ""

    def end(self) -> None:
        """End its session: its workers write checkpoints."""
        with contextlib.suppress(OSError):
            self.outbox.path.unlink()


def end(out: Path) -> None:
    """Let the other hosts go: the command on host 0 has ended."""
    with contextlib.suppress(OSError):
        (out / _HOME / _OVER).touch()


def follow(out: Path, host: int, workers: int | None, done: Callable[[], bool], waiting: Callable[[], object]) -> None:
    """Work for host 0, session after session, until its command ends.

    Args:
      out: folder of the sweep, the same one as that of host 0.
      host: number of this host, above 0.
      workers: of this machine, as for `LocalBackend`.
      done: whether nothing is left to do, in case the command on host 0 ended before this one began.
      waiting: called when host 0 is waited for.
    """
    home, seen = out / _HOME, set[Path]()
    while True:
        waiting()
        asked = -HEARTBEAT
        while not (fresh := [path for path in home.glob(f"{host}/*/{_TASKS}") if path not in seen]):
            if (home / _OVER).exists() and seen:
                return
            if time.monotonic() - asked > HEARTBEAT:  # all records are read
                if done():
                    return
                asked = time.monotonic()
            time.sleep(POLL)
        seen.update(fresh)
        _session(out, fresh[-1].parent, workers)


def _session(out: Path, folder: Path, workers: int | None) -> None:
    """Run workers for host 0 until it removes the file of tasks or is presumed dead."""
    inbox, outbox = Inbox(folder / _TASKS), Outbox(folder / _EVENTS)
    backend: LocalBackend | None = None
    size = 0
    try:
        while not inbox.silent:
            for message in inbox.receive():
                if "config" in message:
                    config = WorkerConfig(**message["config"])
                    backend = LocalBackend(dataclasses.replace(config, out=str(out)), workers)
                assert backend is not None
                if "start" in message:
                    backend.start(message["start"])
                if message.get("send") in backend.workers:  # else it was lost, as host 0 will read
                    backend.send(message["send"], Assignment(**message["task"]))
                if message.get("release") in backend.workers:
                    backend.release(message["release"])
            if backend is None:
                time.sleep(POLL)
                continue
            for number, event in backend.poll(POLL):
                outbox.send({"number": number, "event": event.to_json()})
            if size != (size := backend.size):
                outbox.send({"size": size})
            outbox.heartbeat()
    except OSError:  # host 0 has removed the file
        pass
    finally:
        if backend is not None:
            backend.shutdown(STOP_SECONDS)
        with contextlib.suppress(OSError):
            outbox.send({"left": True})
