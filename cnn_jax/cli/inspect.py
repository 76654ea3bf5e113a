"""launch.py inspect: look inside the trained networks of a sweep."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags as absl_flags
from rich.text import Text

from cnn_jax.cli import flags
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.records import store

if TYPE_CHECKING:
    from pathlib import Path

    from cnn_jax.analysis.cell import SeedsOfCell
    from cnn_jax.records.record import Record
    from cnn_jax.report.inside import Shown

USAGE = """python launch.py inspect DIR [TRIAL ...] [--flags]

Look inside trained networks: kernels, feature maps, inputs that excite a channel, decisive pixels, confused images.

A TRIAL is an id, a prefix of one, or best; default: the best on validation, and the median seed of its cell.
"""
PLAIN_SECONDS = 10.0  # between lines of progress where there is no live display
_TEXTS = {
    "layer": "name of the layer to look at; default the first, the last, and two between",
    "channel": "channel of that layer, from 0; default the first ones",
    "image": "number of a test image, from 0, whose maps and decisive pixels are shown; default four images",
    "panel": "package.module:attribute of your own, (network, images) -> dict of arrays; several separated by commas",
    "out": "folder of the page and of the numbers; default DIR/inspect",
}


def inspect(words: Sequence[str]) -> int:
    """Look inside trained networks: kernels, feature maps, decisive pixels, confused images."""
    values = absl_flags.FlagValues()
    for name, text in _TEXTS.items():
        absl_flags.DEFINE_string(name, None, text, flag_values=values)
    named = flags.parse(values, ["inspect", *words], USAGE)
    if not named:
        raise UsageError("inspect: name the folder of a sweep")
    dir = store.folder(named[0])
    out = dir / "inspect" if values.out is None else store.folder(values.out)
    channel, image = (flags.one(values, name, _index) for name in ("channel", "image"))
    chosen = _chosen(dir, named[1:])
    store.check(out)

    from cnn_jax.analysis import panels
    from cnn_jax.analysis.inside import Choice, look_inside
    from cnn_jax.analysis.kernels import film
    from cnn_jax.analysis.trained import open_trial
    from cnn_jax.report import inside as pages

    choice, own = Choice(values.layer, channel, image), panels.names_of(values.panel)
    console = Console()
    with _progress(console) as tell:
        tell("reading the data")
        networks = [open_trial(dir, record.trial) for record, _, _ in chosen]
        sets = [network.dataset() for network in networks]
        for network, data in zip(networks, sets, strict=True):
            choice.check(network, len(data.test_labels))
        shown = []
        for network, data, (record, role, cell) in zip(networks, sets, chosen, strict=True):
            of = f"seed {record.config.seed}: " if len(chosen) > 1 else ""
            found = look_inside(network, data, choice, lambda text, of=of: tell(of + text))  # type: ignore[misc]
            examples_NHWC = data.test_images[found.examples]
            looks = tuple(panels.panel(name, network, examples_NHWC) for name in own)
            frames = [open_trial(dir, record.trial, epoch=epoch) for epoch in record.snapshots]
            shown.append(pages.Shown(found, cell, role, looks, film(frames)))
        tell("writing the page")
        with store.reporting(out):
            page = _write(out, shown)
    from cnn_jax.report import inside_files

    inside_files.terminal(shown, console)
    console.print(f"page: {page}", soft_wrap=True)
    return 0


def _index(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("an integer from 0")
    return int(text)


def _chosen(dir: "Path", names: Sequence[str]) -> "list[tuple[Record, str, SeedsOfCell]]":
    """Records to look at, each once, with the reason why it is shown and the seeds of its cell."""
    from cnn_jax.analysis.cell import seeds_of_cell
    from cnn_jax.analysis.records import find_record
    from cnn_jax.records import record as records

    every = [records.decode(raw) for raw in store.read(dir)]
    found: dict[str, tuple[Record, str, SeedsOfCell]] = {}
    for name in names or ["best"]:
        record = find_record(dir, name)
        validated = record.val_accuracy is not None
        role = ("best on validation" if validated else "best on test") if name == "best" else ""
        found.setdefault(record.trial, (record, role, seeds_of_cell(record, every)))
    if not names:
        (best, role, cell) = next(iter(found.values()))
        if cell.median.trial == best.trial and len(cell.records) > 1:
            found[best.trial] = (best, f"{role}, median seed of its cell", cell)
        else:
            found.setdefault(cell.median.trial, (cell.median, "median seed of its cell", cell))
    return list(found.values())


def _write(out: "Path", shown: "Sequence[Shown]") -> "Path":
    import numpy as np

    from cnn_jax.analysis.panels import arrays_of
    from cnn_jax.records.arrays import to_npz
    from cnn_jax.records.files import replace
    from cnn_jax.report import inside, inside_files

    out.mkdir(parents=True, exist_ok=True)
    for one in shown:
        if one.inside.network.trial is not None:
            arrays = one.inside.arrays() | arrays_of(one.panels)
            if one.film is not None:
                arrays |= {"film/epochs": np.array(one.film.epochs), f"film/{one.film.layer}": one.film.values}
            replace(out / f"{one.inside.network.trial.id}.npz", to_npz(arrays))
    for name, text in inside_files.csv_files(shown).items():
        replace(out / name, text.encode(errors="backslashreplace"))
    page = out / "inspect.html"
    replace(page, inside.page(shown).encode(errors="backslashreplace"))
    return page


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A line of progress: live in a terminal; elsewhere printed every `PLAIN_SECONDS` at most."""
    if console.is_interactive:
        with console.status("", spinner="line") as status:
            yield lambda text: status.update(Text(text))
        return
    printed = time.monotonic()

    def tell(text: str) -> None:
        nonlocal printed
        if time.monotonic() - printed > PLAIN_SECONDS:
            printed = time.monotonic()
            console.print(text, soft_wrap=True)

    yield tell
