"""What was done: append-only results, trained parameters, checkpoints, resume. A folder of plain files, no JAX.

    DIR/sweep.json             schema version, and the commands that were run here
    DIR/plan/HASH.jsonl.gz     the trials that a command planned, a line of canonical JSON each
    DIR/records/WRITER.jsonl   a line per finished trial; each writer appends to its own file, so writers never meet
    DIR/trials/ID/params.npz   the trained parameters; their checksum is in the record
    DIR/trials/ID/checkpoint-* of a trial under way; removed when its record is written
    DIR/images/HASH.npz        small copies of some images of a data set, for the report alone: optional
    DIR/lock                   who is at work here

A record is one line, written by one write call and synced: it is there or it is not. The line ends with a checksum of the
rest, so a torn or damaged line is recognised, reported and left alone; its trial simply runs again. Every other file is written
whole or not at all, and has its checksum too. Nothing is ordered by clocks, which jump: a checkpoint counts by its step.

DIR may be an object store's (gs://BUCKET/..., through etils.epath). Objects cannot be appended to: there every record is an
object of its own, and every object appears whole. They cannot be locked either: two commands at once do the same work twice.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import socket
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.config import Trial, UsageError

SCHEMA = 1
# A trial of one of these states is not run again; a failed one is.
FINISHED = ("done", "diverged")


class StoreError(OSError):
    """The folder cannot be written any more: full, read-only or gone. The message is one line."""


def folder(dir: str | os.PathLike) -> Path:
    """`dir` as a path: of pathlib, or of etils.epath where it has a scheme such as gs://.

    In a string, a leading ~ or ~USER is the home folder. Raises UsageError if there is no such home or scheme.
    """
    if "://" not in os.fspath(dir):
        path = Path(dir)
        if not path.parts or not path.parts[0].startswith("~"):
            return path
        if not os.fspath(dir).startswith("~") or isinstance(dir, Path):  # as ./~, which a Path holds as ~
            return Path.cwd() / path
        try:
            return path.expanduser()
        except RuntimeError:
            raise UsageError(f"--out: {path.parts[0]} has no home folder on this machine: name the folder in full") from None
    from etils import epath

    try:
        return epath.Path(dir)  # type: ignore[return-value]
    except KeyError:
        raise UsageError(
            f"--out: {dir} has an unknown scheme: use gs://BUCKET/..., s3://BUCKET/... or a local folder"
        ) from None


def is_local(dir: Path) -> bool:
    """Whether the folder is in a file system, with appending, renaming and locks; an object store has none of them."""
    return isinstance(dir, pathlib.Path)


@contextlib.contextmanager
def reporting(dir: str | os.PathLike) -> Iterator[None]:
    """What goes wrong with files inside becomes a StoreError that names the folder."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"--out: {dir} cannot be written: {error.strerror or error}{where}") from error


# ---------------------------------------------------------------------------------------------------------------- reading


def check(dir: str | os.PathLike) -> None:
    """Raises UsageError if `dir` cannot hold the results of a sweep; leaves nothing behind.

    It may be absent (then folders can be made in the nearest existing parent) or hold earlier results of this schema.
    """
    path = folder(dir)
    try:
        if is_local(path):
            existing = path
            while not existing.exists() and existing != existing.parent:
                existing = existing.parent
            if not existing.is_dir():
                raise UsageError(f"--out: {existing} is not a folder: name a folder that exists or can be made")
            if not os.access(existing, os.W_OK | os.X_OK) or (existing != path and not _can_make_folders(existing)):
                raise UsageError(f"--out: {path} cannot be written: name a folder that you may write to")
        if _read_header(path) is None and _record_files(path):
            _scan(path)  # refuses what is not ours
    except (OSError, ImportError) as error:  # a name that is too long, a bucket that is not ours, its library not installed
        raise UsageError(f"--out: {path} cannot be used: {error}") from None


def _can_make_folders(parent: Path) -> bool:
    """Tries it, and leaves nothing behind: /proc and some mounted folders have permissions that say nothing about it."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".cnn_jax-", dir=parent))
    except OSError:
        return False
    return True


def _read_header(dir: Path) -> dict[str, Any] | None:
    """The header; None if there is none, or if it is damaged in a folder that is ours. Raises UsageError if it is another's."""
    try:
        data = (dir / "sweep.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{dir / 'sweep.json'} cannot be read: {error.strerror or error}") from None
    header = _decode(data.removesuffix(b"\n"))
    if header is None or "schema" not in header:
        if (dir / "plan").is_dir() or (dir / "records").is_dir():
            return None
        raise UsageError(f"--out: {dir / 'sweep.json'} is not this program's: name another folder, or remove the file")
    _check_schema(dir, header)
    return header


def _check_schema(dir: Path, found: Mapping[str, Any]) -> None:
    if found.get("schema") != SCHEMA:
        raise UsageError(
            f"--out: {dir} holds records of schema {found.get('schema')}, this version writes schema {SCHEMA}: "
            f"name another folder, or use the version that made it"
        )


def read(dir: str | os.PathLike) -> list[dict[str, Any]]:
    """The records in `dir`, one per trial: the first finished one, else its last failure; in order of trial id.

    Damaged lines are left out (see `damaged`). Raises UsageError if `dir` holds no sweep.
    """
    records = _scan(folder(dir)).records
    return [records[id] for id in sorted(records)]


def damaged(dir: str | os.PathLike) -> list[str]:
    """Where damaged lines stand, as 'FILE:LINE'; a torn last line of a killed writer is one of them."""
    return _scan(folder(dir)).damaged


def lost_params(dir: str | os.PathLike) -> set[str]:
    """Trials whose trained parameters were kept and are now gone or damaged: every byte is compared."""
    path = folder(dir)
    lost = set()
    for trial, checksums in _scan(path).params.items():
        try:
            found = hashlib.sha256((path / "trials" / trial / "params.npz").read_bytes()).hexdigest()
        except OSError:
            found = ""
        if found not in checksums:
            lost.add(trial)
    return lost


class _Contents(NamedTuple):
    records: dict[str, dict[str, Any]]
    damaged: list[str]
    params: dict[str, set[str]]  # checksums of a trial's parameters: several if it was trained again after damage


def _scan(dir: Path) -> _Contents:
    found = _Contents({}, [], {})
    paths = _record_files(dir)
    if not paths and _read_header(dir) is None:
        raise UsageError(f"{dir} holds no sweep: name a folder that launch.py wrote with --out")
    for path in paths:
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError:
            found.damaged.append(path.name)
            continue
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            record = _decode(line)
            if record is None or not {"trial", "status"} <= record.keys():
                found.damaged.append(f"{path.name}:{number}")
                continue
            _check_schema(dir, record)
            known = found.records.get(record["trial"])
            if known is None or known["status"] not in FINISHED:
                found.records[record["trial"]] = record
            if record.get("params_sha256"):
                found.params.setdefault(record["trial"], set()).add(record["params_sha256"])
    if found.damaged and not found.records and _read_header(dir) is None:  # records/*.jsonl of another program
        raise UsageError(f"{dir} holds no sweep: none of the lines in {dir / 'records'} is a record of this program")
    return found


def _record_files(dir: Path) -> list[Path]:
    if not is_local(dir):
        return sorted((dir / "records").glob("*.jsonl"))
    try:  # not by `glob`, which takes a folder that cannot be read for an empty one
        return sorted(path for path in (dir / "records").iterdir() if path.suffix == ".jsonl")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{dir / 'records'} cannot be read: {error.strerror or error}") from None


def _encode(record: Mapping[str, Any]) -> bytes:
    # NaN and infinity are no JSON: a diverged trial's losses are null.
    body = json.dumps(_finite(record), separators=(",", ":"), allow_nan=False)
    return f'{body[:-1]},"crc32":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def _decode(line: bytes) -> dict[str, Any] | None:
    head, mark, tail = line.rpartition(b',"crc32":"')
    if not mark or tail[8:] != b'"}' or tail[:8] != b"%08x" % zlib.crc32(head + b"}"):
        return None
    return json.loads(head + b"}")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def plan(dir: str | os.PathLike) -> list[Trial]:
    """All trials ever planned in `dir`, without repeats; a damaged plan file is skipped (its command writes it anew)."""
    trials: dict[str, Trial] = {}
    for path in sorted((folder(dir) / "plan").glob("*.jsonl.gz")):
        with contextlib.suppress(OSError, EOFError, zlib.error):
            text = gzip.decompress(path.read_bytes())
            if _plan_name(text) == path.name:
                trials |= {trial.id: trial for trial in map(Trial.from_json, text.decode().splitlines())}
    return list(trials.values())


def _plan_name(text: bytes) -> str:
    return f"{hashlib.sha256(text).hexdigest()[:16]}.jsonl.gz"


def commands(dir: str | os.PathLike) -> list[dict[str, Any]]:
    """The commands that were run in `dir`, each with its time."""
    return (_read_header(folder(dir)) or {}).get("commands", [])


IMAGE_BYTES = 2**23  # at most, of a file of images: the report copies parts of it into its page


def images(dir: str | os.PathLike, checksum: str) -> dict[str, np.ndarray]:
    """The arrays that `keep_images` wrote for a data set; empty if there are none, or if the file is damaged or too large."""
    path = _images_path(folder(dir), checksum)
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError):
        if not is_local(path) or (path.is_file() and path.stat().st_size <= IMAGE_BYTES):
            data = path.read_bytes()
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                size = sum(member.file_size for member in file.infolist())
            return from_npz(data) if size <= IMAGE_BYTES else {}
    return {}


def _images_path(dir: Path, checksum: str) -> Path:
    return dir / "images" / f"{hashlib.sha256(checksum.encode()).hexdigest()[:16]}.npz"


def load_params(dir: str | os.PathLike, trial_id: str) -> dict[str, np.ndarray]:
    """Trained variables of a trial by path ('params/conv1/kernel'). Raises FileNotFoundError if they were not kept."""
    return from_npz((folder(dir) / "trials" / trial_id / "params.npz").read_bytes())


# ---------------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def locked(dir: Path) -> Iterator[None]:
    """Holds the folder for this process; raises UsageError naming the holder if another one has it.

    Where files cannot be locked (object stores, some mounted folders) it holds nothing: records of two writers do not
    harm each other, and the first of two alike counts.
    """
    if not is_local(dir):
        yield
        return
    import fcntl

    with reporting(dir):
        dir.mkdir(parents=True, exist_ok=True)
        file = open(dir / "lock", "ab+", buffering=0)  # noqa: SIM115 (closed below, which lets go of the lock)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = " ".join(file.read(200).decode(errors="replace").split())
            raise UsageError(f"--out: {dir} is in use by {holder or 'another process'}: wait, or name another folder") from None
        except OSError:
            pass
        with reporting(dir):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def begin(dir: Path, command: str, time: str, trials: Iterable[Trial], about: Mapping[str, Any] | None = None) -> list[str]:
    """Writes down what is about to be run: the schema, the command and its plan. Mends what a crash or damage left behind.

    about: what the report says of the command besides its results, as JSON; earlier commands with the same drop theirs.
    Returns a sentence for each thing found damaged; of damaged lines, only those that no command before has spoken of.
    """
    text = "".join(trial.canonical + "\n" for trial in trials).encode()
    notes = []
    with reporting(dir):
        for name in ("plan", "records", "trials"):
            (dir / name).mkdir(parents=True, exist_ok=True)
        header = _read_header(dir)
        if header is None:
            header = {"schema": SCHEMA, "commands": [], "damaged": []}
            if (dir / "sweep.json").exists():
                notes.append("sweep.json was damaged: the list of earlier commands is lost, their records are not")
        for place in (dir, dir / "plan"):
            for left in place.glob(".*.tmp"):
                left.unlink(missing_ok=True)
        replace(dir / "plan" / _plan_name(text), gzip.compress(text, mtime=0))
        entry: dict[str, Any] = {"command": command, "time": time, "plan": _plan_name(text).partition(".")[0]}
        if about:
            header["commands"] = [
                {key: value for key, value in earlier.items() if key != "about" or value != about}
                for earlier in header["commands"]
            ]
            entry["about"] = about
        header["commands"].append(entry)
        replace(dir / "sweep.json", _encode(header))
        bad = damaged(dir)
        if new := [line for line in bad if line not in header["damaged"]]:
            shown = ", ".join(new[:3]) + (" ..." if len(new) > 3 else "")
            notes.append(f"{len(new)} damaged line{'s' * (len(new) > 1)} in records ({shown}) left out: those trials run again")
            replace(dir / "sweep.json", _encode(header | {"damaged": bad}))
    return notes


class Writer:
    """Appends records to this process's own file in the folder, and keeps parameters and checkpoints of its trials."""

    def __init__(self, dir: str | os.PathLike):
        self.dir = folder(dir)
        self._path = self._new_path()

    def _new_path(self) -> Path:
        return self.dir / "records" / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"

    def finish(self, record: Mapping[str, Any], params: Mapping[str, np.ndarray] | None = None) -> None:
        """Keeps a trial's parameters, then its record, then drops its checkpoints: killed in between, nothing is lost.

        Checkpoints of a failed trial stay: it is tried again, and what failed may have been the machine.
        """
        folder = self.dir / "trials" / record["trial"]
        checksum = None
        with reporting(self.dir):
            if params is not None:
                folder.mkdir(exist_ok=True)
                data = to_npz(params)
                checksum = hashlib.sha256(data).hexdigest()
                replace(folder / "params.npz", data)
            self._append(_encode({**record, "params_sha256": checksum}))
            for pattern in ("checkpoint-*", ".*.tmp") if record["status"] in FINISHED else ():
                for path in folder.glob(pattern):
                    path.unlink(missing_ok=True)
            with contextlib.suppress(OSError, ValueError):
                folder.rmdir()  # empty unless parameters are kept

    def _append(self, line: bytes) -> None:
        if not is_local(self.dir):
            replace(self._new_path(), line)
            return
        try:
            with open(self._path, "ab", buffering=0) as file:
                if file.write(line) != len(line):
                    raise OSError(28, os.strerror(28))
                os.fsync(file.fileno())
        except OSError:
            self._path = self._new_path()  # a later line must not be glued to a torn one
            raise

    def checkpoint(self, trial_id: str, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps a complete state of a trial under way, and the one before it, in case that this one is damaged.

        Checkpoints of later steps are dropped: whoever is at this step now could not use them.
        """
        folder = self.dir / "trials" / trial_id
        with reporting(self.dir):
            folder.mkdir(exist_ok=True)
            data = to_npz(arrays)
            replace(folder / f"checkpoint-{step:09d}-{hashlib.sha256(data).hexdigest()[:16]}.npz", data)
            others = {path: int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*.npz")}
            kept = [step, *sorted(s for s in others.values() if s < step)[-1:]]
            for path, other in others.items():
                if other not in kept:
                    path.unlink(missing_ok=True)


def keep_images(dir: Path, checksum: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps images of the data set with this checksum for the report, in place of those kept before."""
    with reporting(dir):
        path = _images_path(dir, checksum)
        path.parent.mkdir(exist_ok=True)
        replace(path, to_npz(arrays))


def checkpoints(dir: str | os.PathLike, trial_id: str) -> Iterator[dict[str, np.ndarray]]:
    """The whole checkpoints of a trial, the newest first; damaged ones are passed over."""
    for path in sorted((folder(dir) / "trials" / trial_id).glob("checkpoint-*.npz"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] == path.stem.rsplit("-", 1)[-1]:
                yield from_npz(data)


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the bytes of an .npz file: the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_npz(data: bytes) -> dict[str, np.ndarray]:
    """The inverse of `to_npz`; objects are refused, for reading them would run what they say."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)


def replace(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, whatever is killed or cut off when."""
    if not is_local(path):
        path.write_bytes(data)  # an object appears when it is complete
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
