"""Folder of a sweep: append-only records, trained parameters, checkpoints, resume. Plain files, no JAX.

    DIR/sweep.json             schema version, and the commands that were run
    DIR/plan/HASH.jsonl.gz     the trials that a command planned, a line of canonical JSON each
    DIR/records/WRITER.jsonl   a line per finished trial; each writer appends to its own file, so writers never conflict
    DIR/trials/ID/params.npz   the trained parameters; their checksum is in the record
    DIR/trials/ID/snapshots.npz  parameters at chosen epochs (--snapshots), in the same way
    DIR/trials/ID/checkpoint-* of an unfinished trial; removed when its record is written
    DIR/images/HASH.npz        small copies of some images of a data set, used only by the report: optional
    DIR/lock                   process that writes to the folder

A record is one line, written by one write call and synced. The line ends with a checksum of the rest, so a torn or damaged
line is recognized, reported and left alone; its trial runs again. All other files are written atomically and have checksums
too. Nothing is ordered by clocks, which jump: checkpoints are ordered by step.

DIR may be in an object store (gs://BUCKET/..., through etils.epath). Objects cannot be appended to, so every record is an
object of its own, which is written atomically. They cannot be locked either: two concurrent commands do the same work twice.
"""

import collections
import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import socket
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import cnn_jax
from cnn_jax import schema
from cnn_jax.aliases import JsonObject
from cnn_jax.errors import UsageError
from cnn_jax.records import record as records
from cnn_jax.records.arrays import from_npz, to_npz
from cnn_jax.records.files import StoreError as StoreError
from cnn_jax.records.files import folder, is_local, read_file, replace, reporting
from cnn_jax.records.files import locked as locked
from cnn_jax.records.header import SCHEMA as SCHEMA
from cnn_jax.records.header import check_schema, commands, read_header
from cnn_jax.records.lines import decode, encode
from cnn_jax.trial import Trial

# The largest files that are read, in bytes; a plan is this large after decompression.
MAX_RECORDS, MAX_PLAN, MAX_ARRAYS = 2**30, 2**28, 2**31
Kind = Literal["params", "snapshots"]  # of a trial's arrays, see `arrays.Kept`
# A trial of one of these states is not run again; a failed one is.
FINISHED = ("done", "diverged")


# ---------------------------------------------------------------------------------------------------------------- reading


def check(dir: str | os.PathLike) -> None:
    """Raise UsageError if `dir` cannot hold the results of a sweep. Writes nothing that remains.

    It may be missing, if folders can be made in the nearest existing parent, or hold earlier results of this schema.
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
        if read_header(path) is None and _record_files(path):
            _scan(path)  # raises if another program wrote them
    except (OSError, ImportError) as error:  # such as a path that is too long, no access to a bucket, or its library missing
        raise UsageError(f"--out: {path} cannot be used: {error}") from None


def _can_make_folders(parent: Path) -> bool:
    """Make and remove a folder: the permissions of /proc and of some mounted folders do not tell whether it is possible."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".cnn_jax-", dir=parent))
    except OSError:
        return False
    return True


def read(dir: str | os.PathLike) -> list[JsonObject]:
    """Return the records in `dir`, one per trial, ordered by id: the first finished one, else the last failure.

    Damaged lines are left out (see `damaged`). Raises UsageError if `dir` holds no sweep.
    """
    records = _scan(folder(dir)).records
    return [records[id] for id in sorted(records)]


def damaged(dir: str | os.PathLike) -> list[str]:
    """Return the damaged lines as 'FILE:LINE', including the torn last line of a killed writer."""
    return _scan(folder(dir)).damaged


def lost_params(dir: str | os.PathLike, kind: Kind = "params") -> set[str]:
    """Return trials whose kept parameters, or snapshots, are now missing or damaged: every byte is checked."""
    path, lost = folder(dir), set()
    contents = _scan(path)
    for trial, checksums in (contents.params if kind == "params" else contents.snapshots).items():
        try:
            found = hashlib.sha256(read_file(_trial_folder(path, trial) / f"{kind}.npz", MAX_ARRAYS)).hexdigest()
        except OSError:
            found = ""
        if found not in checksums:
            lost.add(trial)
    return lost


def later(dir: str | os.PathLike) -> list[str]:
    """Return a sentence per kind of record or plan that is left out because a later version wrote it."""
    path = folder(dir)
    counts = _scan(path).later.items()
    return [*(f"{n} record{'s' * (n > 1)} left out: {why}" for why, n in counts), *_plans(path).later]


class _Contents(NamedTuple):
    records: dict[str, JsonObject]
    damaged: list[str]
    later: dict[str, int]  # reason -> number of records
    params: dict[str, set[str]]  # checksums of a trial's parameters: several if it was trained again after damage
    snapshots: dict[str, set[str]]  # of its snapshots, likewise


def _scan(dir: Path) -> _Contents:
    found = _Contents({}, [], {}, {}, {})
    paths = _record_files(dir)
    if not paths and read_header(dir) is None:
        raise UsageError(f"{dir} holds no sweep: name the folder of a sweep, its --out")
    for path in paths:
        try:
            lines = read_file(path, MAX_RECORDS).split(b"\n")
        except OSError:
            found.damaged.append(path.name)
            continue
        for number, line in enumerate(lines, 1):
            if line:
                _add_line(found, dir, line, f"{path.name}:{number}")
    foreign = found.damaged and not (found.records or found.later)  # records/*.jsonl of another program
    if foreign and not (dir / "sweep.json").exists():
        raise UsageError(f"{dir} holds no sweep: none of the lines in {dir / 'records'} is a record of this program")
    return found


def _add_line(found: _Contents, dir: Path, line: bytes, place: str) -> None:
    try:
        raw = decode(line)
        check_schema(dir, raw)
        record = records.to_json(records.decode(raw))
    except UsageError:
        raise
    except records.LaterVersion as error:
        found.later[str(error)] = found.later.get(str(error), 0) + 1
        return
    except ValueError:
        found.damaged.append(place)
        return
    known = found.records.get(record["trial"])
    if known is None or known["status"] not in FINISHED:
        found.records[record["trial"]] = record
    for checksums, name in ((found.params, "params_sha256"), (found.snapshots, "snapshots_sha256")):
        if record[name]:
            checksums.setdefault(record["trial"], set()).add(record[name])


def _record_files(dir: Path) -> list[Path]:
    if not is_local(dir):
        return sorted((dir / "records").glob("*.jsonl"))
    try:  # not `glob`, which treats an unreadable folder as empty
        return sorted(path for path in (dir / "records").iterdir() if path.suffix == ".jsonl")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{dir / 'records'} cannot be read: {error.strerror or error}") from None


class _Plans(NamedTuple):
    trials: dict[str, list[Trial]]  # by name of the plan's file, without its suffix
    later: list[str]  # sentences about trials that a later version planned


def _plans(dir: Path) -> _Plans:
    """The trials of every undamaged plan file. A damaged one is skipped: rerunning its command writes it again."""
    found, versions = _Plans({}, []), {command["plan"]: command.get("version") for command in commands(dir)}
    for path in sorted((dir / "plan").glob("*.jsonl.gz")):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(read_file(path, MAX_PLAN))) as file:
                text = file.read(MAX_PLAN + 1)
        except (OSError, EOFError, zlib.error):
            continue
        if len(text) > MAX_PLAN or _plan_name(text) != path.name:
            continue
        name, unknown = path.name.partition(".")[0], collections.Counter[str]()
        trials = found.trials.setdefault(name, [])
        for line in text.splitlines():
            try:
                trials.append(Trial.from_json(line.decode()))
            except schema.UnknownField as error:
                unknown[str(error)] += 1
            except ValueError:
                unknown["not a trial"] += 1
        writer = f"cnn_jax {versions[name]}" if versions.get(name) else "an unknown version"
        found.later.extend(
            f"{n} planned trial{'s' * (n > 1)} left out: {why}, written by {writer}" for why, n in unknown.items()
        )
    return found


def plan(dir: str | os.PathLike) -> list[Trial]:
    """Return all trials ever planned in `dir`, without duplicates, except those of later versions."""
    return list({trial.id: trial for trials in _plans(folder(dir)).trials.values() for trial in trials}.values())


def plans(dir: str | os.PathLike) -> dict[str, list[Trial]]:
    """Return the planned trials by command line; '' stands for unknown commands."""
    path = folder(dir)
    names = {command["plan"]: command["command"] for command in commands(path)}
    found: dict[str, dict[str, Trial]] = {}
    for name, trials in _plans(path).trials.items():
        found.setdefault(names.get(name, ""), {}).update((trial.id, trial) for trial in trials)
    return {command: list(trials.values()) for command, trials in found.items()}


def _plan_name(text: bytes) -> str:
    return f"{hashlib.sha256(text).hexdigest()[:16]}.jsonl.gz"


IMAGE_BYTES = 2**23  # limit of an image file: the report embeds parts of it in its page


def images(dir: str | os.PathLike, checksum: str) -> dict[str, np.ndarray]:
    """Return the arrays that `keep_images` wrote for a data set; empty if the file is missing, damaged or too large."""
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


def load_params(dir: str | os.PathLike, trial_id: str, kind: Kind = "params") -> dict[str, np.ndarray]:
    """Trained variables of a trial by path ('params/conv1/kernel'), or its snapshots by epoch and path.

    Raises:
      FileNotFoundError: they were not kept.
      ValueError: the file is damaged, or holds anything but plain arrays.
    """
    return from_npz(read_file(_trial_folder(folder(dir), trial_id) / f"{kind}.npz", MAX_ARRAYS))


def _trial_folder(dir: Path, trial_id: str) -> Path:
    """DIR/trials/ID. Raises UsageError if the id is not a plain file name, which could lead out of DIR."""
    if not records.is_plain_name(trial_id):
        raise UsageError(f"{str(trial_id)[:80]!r} is not the id of a trial")
    return dir / "trials" / trial_id


# ---------------------------------------------------------------------------------------------------------------- writing


def begin(dir: Path, command: str, time: str, trials: Iterable[Trial], about: JsonObject | None = None) -> list[str]:
    """Record the schema, a command and its plan before it runs. Repairs the traces of a crash.

    Args:
      dir: folder of the sweep.
      command: the command line.
      time: ISO 8601.
      trials: the plan.
      about: description of the command for the report, as JSON; earlier commands with the same one drop theirs.

    Returns:
      A sentence per damage found; of damaged lines, those that no earlier command has reported.
    """
    text = "".join(trial.canonical + "\n" for trial in trials).encode()
    notes = []
    with reporting(dir):
        for name in ("plan", "records", "trials"):
            (dir / name).mkdir(parents=True, exist_ok=True)
        header = read_header(dir)
        if header is None:
            header = records.Header()
            if (dir / "sweep.json").exists():
                notes.append("sweep.json was damaged: the list of earlier commands is lost, their records are not")
        for place in (dir, dir / "plan"):
            for left in place.glob(".*.tmp"):
                left.unlink(missing_ok=True)
        replace(dir / "plan" / _plan_name(text), gzip.compress(text, mtime=0))
        plan = _plan_name(text).partition(".")[0]
        entry = records.Command(command, time, plan, cnn_jax.__version__, dict(about) if about else None)
        earlier = (dataclasses.replace(c, about=None) if about and c.about == about else c for c in header.commands)
        header = dataclasses.replace(header, commands=(*earlier, entry))
        replace(dir / "sweep.json", encode(header.to_json()))
        bad = damaged(dir)
        if new := [line for line in bad if line not in header.damaged]:
            shown = ", ".join(new[:3]) + (" ..." if len(new) > 3 else "")
            notes.append(f"{len(new)} damaged line{'s' * (len(new) > 1)} in records ({shown}) left out: those trials run again")
            replace(dir / "sweep.json", encode(dataclasses.replace(header, damaged=tuple(bad)).to_json()))
    return notes


class Writer:
    """Append records to a file of this process, and write parameters and checkpoints of its trials."""

    def __init__(self, dir: str | os.PathLike):
        self.dir = folder(dir)
        self._path = self._new_path()

    def _new_path(self) -> Path:
        return self.dir / "records" / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"

    def finish(
        self,
        record: JsonObject,
        params: Mapping[str, np.ndarray] | None = None,
        snapshots: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write a trial's arrays (`arrays.Kept`) and then its record; remove its checkpoints. A kill in between loses nothing.

        Checkpoints of a failed trial are kept for its retry: the machine may have been at fault.
        """
        folder = _trial_folder(self.dir, record["trial"])
        kept: dict[str, object] = {"params_sha256": None}
        if snapshots is not None:
            kept["snapshots"] = sorted({int(name.partition("/")[0]) for name in snapshots})
        with reporting(self.dir):
            for name, arrays in (("params", params), ("snapshots", snapshots)):
                if arrays is not None:
                    folder.mkdir(exist_ok=True)
                    data = to_npz(arrays)
                    kept[f"{name}_sha256"] = hashlib.sha256(data).hexdigest()
                    replace(folder / f"{name}.npz", data)
            self._append(encode({**record, **kept}))
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
            self._path = self._new_path()  # a later line must not follow a torn one
            raise

    def checkpoint(self, trial_id: str, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the complete state of an unfinished trial. The previous checkpoint is kept in case that this one is damaged.

        Checkpoints of later steps are removed: this run does not continue from them.
        """
        folder = _trial_folder(self.dir, trial_id)
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
    """Write images of the data set with this checksum for the report; replaces earlier ones."""
    with reporting(dir):
        path = _images_path(dir, checksum)
        path.parent.mkdir(exist_ok=True)
        replace(path, to_npz(arrays))


def checkpoints(dir: str | os.PathLike, trial_id: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield the checkpoints of a trial, latest step first; damaged ones are skipped."""
    for path in sorted(_trial_folder(folder(dir), trial_id).glob("checkpoint-*.npz"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            data = read_file(path, MAX_ARRAYS)
            if hashlib.sha256(data).hexdigest()[:16] == path.stem.rsplit("-", 1)[-1]:
                yield from_npz(data)
