"""A table of runs as text, from a CSV file, a Parquet file or an Optuna storage."""

import csv
import dataclasses
import hashlib
import io
import math
import stat
from pathlib import Path

from cnn_jax.errors import UsageError

SUFFIXES = (".csv", ".tsv", ".parquet", ".db", ".sqlite", ".sqlite3")
MAX_BYTES = 2**30
_EXTRA = "pip install -r requirements-imports.txt"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text with named columns.

    Attributes:
        path: The file.
        columns: Unique column names.
        rows: A text per column; '' if missing.
        sha256: Checksum of the file.
        lower_is_better: The direction of the metric, if the file states it.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sha256: str
    lower_is_better: bool | None = None

    def column(self, name: str) -> list[str]:
        """Return the texts of a column."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


def is_table(path: Path) -> bool:
    """Whether the path is a results file, not a folder."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read(path: Path, study: str | None = None) -> Table:
    """Read a results file.

    Args:
        path: A file with one of `SUFFIXES`.
        study: Name of the study in an Optuna storage with several studies.

    Raises:
        UsageError: The file is missing or not a table, or needs a package that is not installed.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UsageError(f"{path}: unknown kind of file: must end in one of {', '.join(SUFFIXES)}")
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise UsageError(f"{path}: not a regular file")
        if state.st_size > MAX_BYTES:
            raise UsageError(f"{path}: {state.st_size:,} bytes; must be at most {MAX_BYTES:,}")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if study is not None and kind not in (".db", ".sqlite", ".sqlite3"):
        raise UsageError(f"--study: {path} is not an Optuna storage")
    digest = hashlib.sha256(content).hexdigest()
    if kind in (".csv", ".tsv"):
        return _table(path, _csv(path, content), digest)
    if kind == ".parquet":
        return _table(path, _parquet(path, content), digest)
    from cnn_jax.imports import optuna_storage

    rows, lower = optuna_storage.rows(path, study)
    return dataclasses.replace(_table(path, rows, digest), lower_is_better=lower)


def _csv(path: Path, content: bytes) -> list[list[str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not text in UTF-8: export it as CSV (UTF-8)") from None
    first = text[: text.find("\n")]
    delimiter = max(",;\t", key=first.count)  # ties: the comma
    before = csv.field_size_limit(16 * 2**20)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error as error:
        raise UsageError(f"{path}: not a CSV file: {error}") from None
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, content: bytes) -> list[list[str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{path}: reading Parquet needs pyarrow: {_EXTRA}, or export a CSV file") from None
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    columns = [[as_text(value) for value in table.column(i).to_pylist()] for i in range(table.num_columns)]
    return [list(table.column_names), *([*row] for row in zip(*columns, strict=True))]


def as_text(value: object) -> str:
    """Format a value as in CSV: '' for None, 'nan' for NaN."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    return str(value)


def _table(path: Path, rows: list[list[str]], digest: str) -> Table:
    """Check the rows; the first row has the column names.

    A column without a name is pandas' index, and is dropped.
    """
    if len(rows) < 2:
        raise UsageError(f"{path}: has no rows below the column names")
    names = [name.strip() for name in rows[0]]
    kept = [at for at, name in enumerate(names) if name and name != "__index_level_0__" and not name.startswith("Unnamed: ")]
    if twice := next((names[at] for at in kept if names.count(names[at]) > 1), None):
        raise UsageError(f"{path}: two columns are named {twice!r}: rename one of them")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise UsageError(f"{path}: row {number} has {len(row)} cells, the first row names {len(names)} columns")
    return Table(
        path, tuple(names[at] for at in kept), tuple(tuple(row[at].strip() for at in kept) for row in rows[1:]), digest
    )
