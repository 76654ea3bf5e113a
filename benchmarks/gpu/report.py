"""Rows of the benchmark: lines of Markdown tables, printed immediately, and a JSON file with the same data. No JAX."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cnn_jax.records import files

Status = Literal["measured", "skipped", "failed", "no time"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, or the reason why it is missing. None: not applicable or unknown.

    Attributes:
      what: ceiling, contender or variant.
      status: 'skipped' is intended; 'failed' and 'no time' are not.
      note: reason for the status.
      precision: precision of computation and products, as reported by the library.
      lanes: trials of a program.
      seconds: seconds of a process from start to end.
      compile_seconds: for a peer, until the end of a trial's first step.
      train_seconds: seconds of training steps only.
      images_per_second: over all trials; for a process, from start to end.
      step_microseconds: over all lanes; for a ceiling, of a kernel or call.
      trial_microseconds: a trial's share of a step.
      tflops: 10^12 operations/s, two per multiply-accumulate of the network's description, while training.
      gigabytes: 10^9 bytes/s of the device's memory, by XLA's count of the bytes of a step.
      roofline: minimum time of a step as a share of the measured time, see `roofline`.
      device_megabytes: peak memory of the device, in 10^6 bytes.
      accuracy: mean over trials, on the test images.
    """

    what: str
    status: Status = "measured"
    note: str = ""
    precision: str | None = None
    trials: int | None = None
    epochs: int | None = None
    lanes: int | None = None
    seconds: float | None = None
    compile_seconds: float | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    step_microseconds: float | None = None
    trial_microseconds: float | None = None
    tflops: float | None = None
    gigabytes: float | None = None
    roofline: float | None = None
    device_megabytes: float | None = None
    accuracy: float | None = None

    @property
    def is_loss(self) -> bool:
        """Whether a requested measurement is missing."""
        return self.status in ("failed", "no time")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: title, format of its values, width."""

    title: str
    format: str = ""
    width: int = 0


COLUMNS = {
    "what": Column("", width=38),
    "precision": Column("precision", width=16),
    "trials": Column("trials", ",d"),
    "epochs": Column("epochs", "d"),
    "lanes": Column("lanes", "d"),
    "seconds": Column("seconds", ".1f"),
    "compile_seconds": Column("compile s", ".1f"),
    "train_seconds": Column("training s", ".2f"),
    "images_per_second": Column("images/s", ",.0f", 10),
    "step_microseconds": Column("us/step", ",.2f", 10),
    "trial_microseconds": Column("us/step/trial", ",.2f"),
    "tflops": Column("TFLOP/s", ",.4g", 8),
    "gigabytes": Column("GB/s", ",.4g", 8),
    "roofline": Column("of roofline", ".1%"),
    "device_megabytes": Column("device MB", ",.0f"),
    "accuracy": Column("accuracy", ".4f"),
    "note": Column("note"),
}


def header(fields: Sequence[str]) -> Iterator[str]:
    """Yield the first lines of a table with the given fields."""
    yield _line(fields, [COLUMNS[name].title for name in fields])
    yield "|" + "|".join("-" * (_width(name) + 1) + ("-" if _is_word(name) else ":") for name in fields) + "|"


def line(fields: Sequence[str], row: Row) -> str:
    """Format a row of the table. The note of a row without numbers begins with its status."""
    told = dataclasses.replace(row, note=row.note if row.status == "measured" else f"{row.status}: {row.note}")
    values = [getattr(told, name) for name in fields]
    return _line(fields, ["" if v is None else format(v, COLUMNS[n].format) for n, v in zip(fields, values, strict=True)])


def _line(fields: Sequence[str], cells: Sequence[str]) -> str:
    clean = [cell.replace("|", "/").replace("\n", " ") for cell in cells]
    padded = [
        cell.ljust(_width(name)) if _is_word(name) else cell.rjust(_width(name))
        for name, cell in zip(fields, clean, strict=True)
    ]
    return "| " + " | ".join(padded) + " |"


def _width(name: str) -> int:
    return max(len(COLUMNS[name].title), COLUMNS[name].width)


def _is_word(name: str) -> bool:
    return not COLUMNS[name].format


class Report:
    """Prints rows immediately, and keeps the file complete at all times."""

    def __init__(self, path: Path, about: Mapping[str, Any]):
        """about: further contents of the file, such as the device."""
        self.path, self.about, self.rows = path, about, list[dict[str, Any]]()
        self.lost = False

    def text(self, text: str) -> None:
        print(text, flush=True)

    def begin(self, title: str, fields: Sequence[str]) -> None:
        """Begin the table of a part."""
        self.text("\n".join(["", f"## {title}", "", *header(fields)]))

    def add(self, part: str, fields: Sequence[str], row: Row) -> None:
        """Print a row and write the file."""
        self.text(line(fields, row))
        self.rows.append({"part": part, **dataclasses.asdict(row)})
        self.lost |= row.is_loss
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {**self.about, "rows": self.rows}
        files.replace(self.path, json.dumps(whole, indent=1).encode())


_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)\b.*")


def reason_of(errors: str) -> str:
    """Return the line with the reason of a failure: the last one that names an exception, or else the last one."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1] if lines else "")[:300]


def warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
