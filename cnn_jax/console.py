"""The console: prints all human-readable text on standard output.

Text is printed literally, never interpreted as markup, so a path such as `runs/[v1]` is shown whole. Control characters are
escaped, and characters missing in the stream's encoding are replaced: a minus sign by '-', a letter by its escape sequence.
Tables are never cropped: see `print_table`.
"""

import codecs
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from typing import IO, Any

import rich.console
from rich.cells import cell_len
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNLIMITED = 100_000  # columns of a pipe or a file
ENCODING_ERRORS = "cnn_jax.ascii"  # `errors=` of a stream that replaces what its encoding lacks
_ASCII = {
    "–": "-", "—": "-", "−": "-", "─": "-", "━": "-", "×": "x", "±": "+-", "·": "|", "…": "...", "→": "->", "≤": "<=",
    "≥": ">=", "≈": "~", "²": "^2", "ω": "omega", "‘": "'", "’": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


codecs.register_error(ENCODING_ERRORS, _replace)


def printable(text: str, encoding: str) -> str:
    """`text` without control characters except newlines, and with what `encoding` lacks replaced by ASCII."""
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text.encode(encoding, ENCODING_ERRORS).decode(encoding)


class Console(rich.console.Console):
    """A rich console whose strings are plain text.

    Into a pipe or a file, lines are as long as they need to be. `is_interactive`, which decides about live displays, is
    False there, and in a notebook, whose cells show a live display as a line that does not move.
    """

    def __init__(self, file: IO[str] | None = None, width: int | None = None, lasting: bool = False):
        """Print to `file`, default standard output; `width` in columns, default that of the terminal.

        lasting: whether the program continues when the stream can no longer be written (`| head`, a full disk).
        """
        stream = file or sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (standard output may be closed, as by `>&-`)
        terminal = stream.isatty()
        super().__init__(
            file=_Stream(stream, lasting),  # type: ignore[arg-type]
            width=width or (None if terminal else UNLIMITED),
            force_interactive=None if terminal and "JPY_PARENT_PID" not in os.environ else False,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """As in rich, of printable text."""
        return super().render_str(printable(text, self.encoding), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the caller; rich would exit with status 1."""
        raise  # the BrokenPipeError that rich is handling


def discard(stream: IO[str]) -> None:
    """Discard everything that is written to `stream` from now on, and its buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Stream:
    """A stream that takes any text; if it is `lasting`, its writes always succeed."""

    def __init__(self, stream: IO[str], lasting: bool):
        self._stream, self._lasting = stream, lasting

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, ENCODING_ERRORS).decode(error.encoding))
        except OSError:
            if not self._lasting:
                raise
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            if not self._lasting:
                raise
            discard(self._stream)


# ----------------------------------------------------------------------------------------------------------------- tables


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table. An `optional` one is left out where the terminal is too narrow, the last one first."""

    name: str
    left: bool = False  # aligned, as words are; numbers are aligned right
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells of a row, one per column, and its style."""

    cells: Sequence[str]
    style: str = ""


def print_table(console: rich.console.Console, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print a table without cropping any cell.

    Where the console is too narrow, optional columns are left out and named below; where the others are still too wide,
    every row becomes a paragraph of 'name value' pairs.
    """
    columns = [dataclasses.replace(column, name=_cell(console, column.name)) for column in columns]
    rows = [Row([_cell(console, cell) for cell in row.cells], row.style) for row in rows]
    kept = list(range(len(columns)))
    left_out: list[str] = []
    while not _fits(console, grid := _grid(columns, rows, kept)):
        optional = [i for i in kept if columns[i].optional]
        if not optional:
            _print_paragraphs(console, columns, rows)
            return
        kept.remove(optional[-1])
        left_out.insert(0, columns[optional[-1]].name)
    console.print(grid)
    if left_out:
        console.print(
            f"not shown in {console.width} columns: {', '.join(left_out)}", style="dim", highlight=False, markup=False
        )


def _cell(console: rich.console.Console, text: str) -> str:
    return printable(text.replace("\n", r"\n"), console.encoding)


def _grid(columns: Sequence[Column], rows: Sequence[Row], kept: Sequence[int]) -> Table:
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for i in kept:
        grid.add_column(Text(columns[i].name), justify="left" if columns[i].left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(row.cells[i]) for i in kept), style=row.style or None)
    return grid


def _fits(console: rich.console.Console, grid: Table) -> bool:
    options = console.options.update(width=UNLIMITED)
    return Measurement.get(console, options, grid).maximum <= console.width


def _print_paragraphs(console: rich.console.Console, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    for row in rows:
        line = ""
        for column, cell in zip(columns, row.cells, strict=True):
            pair = f"{column.name} {cell}"
            if not cell:
                continue
            if line.strip() and cell_len(line) + 2 + cell_len(pair) > console.width:
                console.print(Text(line, style=row.style), overflow="fold")
                line = "  "  # further lines of the row are indented
            line += f"  {pair}" if line.strip() else pair
        console.print(Text(line, style=row.style), overflow="fold")
