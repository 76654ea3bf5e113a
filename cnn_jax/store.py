"""What was done: append-only results, trained parameters, checkpoints, resume. A folder of plain files, no JAX.

    DIR/sweep.json             schema version, and the commands that were run here
    DIR/plan/HASH.jsonl.gz     the trials that a command planned, a line of canonical JSON each
    DIR/records/WRITER.jsonl   a line per finished trial; each writer appends to its own file, so writers never meet
    DIR/trials/ID/params.npz   the trained parameters
    DIR/trials/ID/checkpoint-* of a trial under way; removed when its record is written
    DIR/lock                   who is at work here

A record is one line, written by one write call and synced: it is there or it is not. The line ends with a checksum of the rest, so
a torn or damaged line is recognised, reported and left alone; its trial simply runs again.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import socket
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.config import Trial, UsageError

SCHEMA = 1
# A trial of one of these states is not run again; a failed one is.
FINISHED = ("done", "diverged")


class StoreError(OSError):
    """The folder cannot be written any more: full, read-only or gone. The message is one line."""


# ---------------------------------------------------------------------------------------------------------------- reading


def check(dir: str | Path) -> None:
    """Raises UsageError if `dir` cannot hold the results of a sweep; writes nothing.

    It may be absent (then the nearest existing parent must be writable) or hold earlier results of this schema.
    """
    dir = Path(dir)
    existing = dir
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"--out: {existing} is not a folder: name a folder that exists or can be made")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"--out: {dir} cannot be written: name a folder that you may write to")
    if dir.exists():
        _read_header(dir)


def _read_header(dir: Path) -> dict[str, Any] | None:
    path = dir / "sweep.json"
    try:
        header = json.loads(path.read_text())
        schema = header["schema"]
    except FileNotFoundError:
        if any((dir / "records").glob("*.jsonl")):
            raise UsageError(f"--out: {dir} has records but no sweep.json: name another folder, or restore the file") from None
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"--out: {path} is not readable as this program's: name another folder, or remove the file") from None
    if schema != SCHEMA:
        raise UsageError(
            f"--out: {dir} holds records of schema {schema}, this version writes schema {SCHEMA}: "
            f"name another folder, or use the version that made it"
        )
    return header


def read(dir: str | Path) -> list[dict[str, Any]]:
    """The records in `dir`, one per trial: the first finished one, else its last failure; in order of trial id.

    Damaged lines are left out (see `damaged`). Raises UsageError if `dir` holds no sweep.
    """
    records, _ = _scan(Path(dir))
    return [records[id] for id in sorted(records)]


def damaged(dir: str | Path) -> list[str]:
    """Where damaged lines stand, as 'FILE:LINE'; a torn last line of a killed writer is one of them."""
    return _scan(Path(dir))[1]


def _scan(dir: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    if not dir.is_dir() or _read_header(dir) is None:
        raise UsageError(f"{dir} holds no sweep: name a folder that launch.py wrote with --out")
    records: dict[str, dict[str, Any]] = {}
    bad = []
    for path in sorted((dir / "records").glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if not line:
                continue
            record = _decode(line)
            if record is None:
                bad.append(f"{path.name}:{number}")
                continue
            known = records.get(record["trial"])
            if known is None or known["status"] not in FINISHED:
                records[record["trial"]] = record
    return records, bad


def _encode(record: Mapping[str, Any]) -> bytes:
    # NaN and infinity are no JSON: a diverged trial's losses are null.
    body = json.dumps(_finite(record), separators=(",", ":"), allow_nan=False)
    return f'{body[:-1]},"crc32":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def _decode(line: bytes) -> dict[str, Any] | None:
    head, mark, tail = line.rpartition(b',"crc32":"')
    if not mark or tail[8:] != b'"}' or tail[:8] != b"%08x" % zlib.crc32(head + b"}"):
        return None
    record = json.loads(head + b"}")
    return record if isinstance(record, dict) and "trial" in record and "status" in record else None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def plan(dir: str | Path) -> list[Trial]:
    """All trials ever planned in `dir`, without repeats; an unreadable plan file is skipped (the next command rewrites it)."""
    trials: dict[str, Trial] = {}
    for path in sorted(Path(dir).glob("plan/*.jsonl.gz")):
        with contextlib.suppress(OSError, EOFError, ValueError, zlib.error), gzip.open(path, "rt") as lines:
            for line in lines:
                trial = Trial.from_json(line)
                trials[trial.id] = trial
    return list(trials.values())


def commands(dir: str | Path) -> list[dict[str, Any]]:
    """The commands that were run in `dir`, each with its time."""
    return (_read_header(Path(dir)) or {}).get("commands", [])


def load_params(dir: str | Path, trial_id: str) -> dict[str, np.ndarray]:
    """Trained variables of a trial by path ('params/conv1/kernel'). Raises FileNotFoundError if they were not kept."""
    with np.load(Path(dir) / "trials" / trial_id / "params.npz", allow_pickle=False) as file:
        return dict(file)


# ---------------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def locked(dir: Path) -> Iterator[None]:
    """Holds the folder for this process; raises UsageError naming the holder if another one has it."""
    import fcntl

    with _reporting(dir):
        dir.mkdir(parents=True, exist_ok=True)
        file = open(dir / "lock", "a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UsageError(f"--out: {dir} is in use by {file.read().strip() or 'another process'}: wait, or name another") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def begin(dir: Path, command: str, time: str, trials: Iterable[Trial]) -> None:
    """Writes down what is about to be run: the schema, the command and its plan."""
    text = "".join(trial.canonical + "\n" for trial in trials).encode()
    name = hashlib.sha256(text).hexdigest()[:16]
    header = _read_header(dir) or {"schema": SCHEMA, "commands": []}
    header["commands"].append({"command": command, "time": time, "plan": name})
    with _reporting(dir):
        (dir / "plan").mkdir(exist_ok=True)
        (dir / "records").mkdir(exist_ok=True)
        (dir / "trials").mkdir(exist_ok=True)
        _replace(dir / "plan" / f"{name}.jsonl.gz", gzip.compress(text, mtime=0))
        _replace(dir / "sweep.json", json.dumps(header, indent=1).encode())


class Writer:
    """Appends records to this process's own file in the folder, and keeps parameters and checkpoints of its trials."""

    def __init__(self, dir: str | Path):
        self.dir = Path(dir)
        self._path = self.dir / "records" / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"

    def finish(self, record: Mapping[str, Any], params: Mapping[str, np.ndarray] | None = None) -> None:
        """Keeps a trial's parameters, then its record, then drops its checkpoints: whatever is killed in between loses nothing."""
        folder = self.dir / "trials" / record["trial"]
        with _reporting(self.dir):
            if params is not None:
                folder.mkdir(exist_ok=True)
                _replace(folder / "params.npz", _npz(params))
            with open(self._path, "ab", buffering=0) as file:
                if file.write(line := _encode(record)) != len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(file.fileno())
            for path in folder.glob("checkpoint-*"):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # empty unless parameters are kept

    def checkpoint(self, trial_id: str, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps a complete state of a trial under way; the one before it stays until this one is whole."""
        folder = self.dir / "trials" / trial_id
        with _reporting(self.dir):
            folder.mkdir(exist_ok=True)
            data = _npz(arrays)
            _replace(folder / f"checkpoint-{step:09d}-{hashlib.sha256(data).hexdigest()[:16]}.npz", data)
            for old in sorted(folder.glob("checkpoint-*.npz"))[:-2]:
                old.unlink(missing_ok=True)


def latest_checkpoint(dir: str | Path, trial_id: str) -> dict[str, np.ndarray] | None:
    """The newest whole checkpoint of a trial; a damaged one is passed over for the one before it."""
    for path in sorted((Path(dir) / "trials" / trial_id).glob("checkpoint-*.npz"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] == path.stem.rsplit("-", 1)[-1]:
                with np.load(io.BytesIO(data), allow_pickle=False) as file:
                    return dict(file)
    return None


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _reporting(dir: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"--out: {dir} cannot be written: {error.strerror or error}") from error
