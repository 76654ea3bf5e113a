"""`launch.py measure`: measures of the networks of a sweep, over seeds."""

import contextlib
import csv
import io
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import rich.progress
from absl import flags as absl_flags

from cnn_jax import stats, sweep
from cnn_jax.analysis import measures, padding_card
from cnn_jax.cli import flags, output
from cnn_jax.console import Column, Console, Row, print_table
from cnn_jax.errors import UsageError
from cnn_jax.program import PROGRAM
from cnn_jax.records import files, store

if TYPE_CHECKING:
    from cnn_jax.analysis.lines import Effect, Line

_USAGE = """python launch.py measure DIR [--measures=NAME,...] [--factor=NAME] [--epochs=all]

Measure what the trained networks of a sweep learned: a number per layer, with intervals over seeds and
contrasts between the levels of a factor. Writes DIR/inspect/measures.csv; `launch.py report DIR` then shows
the numbers. With --epochs: snapshots over the training, in training.csv and a page, training.html.
"""
ROWS = 13  # of the table; with the sentences around it this fills a screen of 24 lines
_ALWAYS = ("probe_gain", "edges")  # names that are shown first
_SECONDS = 10.0  # between lines of progress where there is no live display


def measure(words: Sequence[str]) -> int:
    """Measure the networks of a sweep, write the numbers, and print the clearest."""
    values = absl_flags.FlagValues()
    listed = f"{', '.join(measures.MEASURES)}, or package.module:attribute; default all"
    absl_flags.DEFINE_string("measures", None, listed, flag_values=values)
    absl_flags.DEFINE_string("factor", None, "factor whose levels are compared; default the first", flag_values=values)
    epochs = "epochs of snapshots, as 0,1,4, or all: measure over the training; default the trained parameters"
    absl_flags.DEFINE_string("epochs", None, epochs, flag_values=values)
    shifts = "also answer test images under every shift, for the padding card of the report"
    absl_flags.DEFINE_bool("padding_card", False, shifts, flag_values=values)
    rest = flags.parse(values, ["measure", *words], _USAGE)
    if len(rest) != 1:
        raise UsageError(f"measure: takes one folder, not {len(rest)}")
    names = list(measures.MEASURES) if values.measures is None else [n.strip() for n in values.measures.split(",")]
    measures.check_names(names)
    asked = _epochs(values.epochs)
    dir = store.folder(rest[0])
    done = [record for record in store.read(dir) if record["status"] == "done"]
    factor = _factor(done, values.factor)
    store.check(dir)

    from cnn_jax.analysis import over_seeds
    from cnn_jax.analysis import values as of_trials
    from cnn_jax.analysis.lines import summarize
    from cnn_jax.report import over_training

    console = output.console()
    began = time.monotonic()
    with _progress(console) as progress:
        measured = over_seeds.measure(dir, names, progress, asked, cards=values.padding_card)
    lines: dict[str, list[Line]] = {}
    for name, records in stats.datasets(measured.records).items():
        lines[name] = summarize(records, measured.values, [factor] if factor else [])
        last = max((line.epoch or 0 for line in lines[name]), default=0)
        shown = [line for line in lines[name] if line.epoch in (None, last)]
        _show(console, name if asked is None else f"{name}, epoch {last}", shown, factor)
    numbers, levels = ("measures.csv", "levels.csv") if asked is None else ("training.csv", "training_levels.csv")
    texts = {numbers: of_trials.to_csv(measured.records, measured.values), levels: _csv(_levels(lines))}
    if measured.similarities:
        texts["similarity.csv"] = _csv([vars(s) for s in measured.similarities])
    if asked is not None:
        texts["training.html"] = over_training.page(lines)
    place = dir / "inspect"
    with store.reporting(dir):
        place.mkdir(exist_ok=True)
        for file, text in texts.items():
            files.replace(place / file, text.encode())
        if measured.cards:
            files.replace(store.folder(dir) / padding_card.FILE, padding_card.to_file(measured.cards))
    for sentence in measured.left_out:
        console.print(sentence, style="yellow")
    written = ", ".join([*(str(place / file) for file in texts), *([str(dir / padding_card.FILE)] if measured.cards else [])])
    console.print(f"{len(measured.records)} trials in {time.monotonic() - began:.0f} s: {written}", soft_wrap=True)
    if asked is None:
        console.print(f"`{PROGRAM} report {shlex.quote(str(dir))}` shows them in report.html, by every factor.", soft_wrap=True)
    return 0


def _epochs(text: str | None) -> list[int] | None:
    """Epochs of --epochs; empty: all that were kept."""
    if text is None or text == "all":
        return None if text is None else []
    return sweep.parse_list("epochs", text, sweep.non_negative_int)


def _factor(records: Sequence[stats.Record], name: str | None) -> str | None:
    found = list(stats.design(records).factors) if records else []
    if name is not None and name not in found:
        legal = f"must be one of {', '.join(found)}" if found else "this sweep varies nothing but seeds"
        raise UsageError(f"--factor: unknown factor {name!r}: {legal}")
    return name or next(iter(found), None)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Context in which trials are measured; yields a function that displays how many are done."""
    if console.is_interactive:
        with rich.progress.Progress(console=console, transient=True) as live:
            bar = live.add_task("measuring", total=None)
            yield lambda done, total: live.update(bar, completed=done, total=total)
        return
    began = last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            left = (last - began) / done * (total - done)
            console.print(f"{done}/{total} trials measured · {left:.0f} s left")

    yield line


# ------------------------------------------------------------------------------------------------------------------- table


def _show(console: Console, dataset: str, lines: Sequence["Line"], factor: str | None) -> None:
    p = {i: next((effect.p for effect in line.effects.values()), math.nan) for i, line in enumerate(lines)}
    order = {i: (line.name not in _ALWAYS, math.isnan(p[i]), p[i]) for i, line in enumerate(lines)}
    clearest = sorted(order, key=order.__getitem__)[:ROWS]
    shown = [lines[i] for i in sorted(clearest)]
    spans = {_span(effect) for line in shown for effect in line.effects.values()}
    one_span = len(spans) == 1
    columns = [Column("measure", left=True), Column("layer", left=True), Column("mean")]
    if factor:
        columns += [] if one_span else [Column(factor, left=True)]
        what = next(iter(spans)) if one_span else "difference"
        columns += [Column(what), Column("p"), Column(f"interval ({what})", optional=True)]
    columns += [Column("over untrained", optional=True), Column("interval (mean)", optional=True)]
    console.print(f"{dataset}, by {factor}" if factor else dataset, style="bold")
    bold = [any(effect.claimed for effect in line.effects.values()) for line in shown]
    rows = [Row(_cells(line, factor, one_span), "bold" if b else "") for line, b in zip(shown, bold, strict=True)]
    print_table(console, columns, rows)
    if len(shown) < len(lines):
        console.print(f"the {len(shown)} clearest of {len(lines)} lines; all are in levels.csv", style="dim")
    gains = [(f"probe {line.layer}", line.mean) for line in lines if line.name == "probe_gain"]
    gains += [("edges over random", line.gained) for line in lines if line.name == "edges" and line.gained]
    if gains:
        console.print("; ".join(f"{what} {_number(e.value, '+')} ({_bounds(e)})".removesuffix(" ()") for what, e in gains))
    if factor and all(map(math.isnan, p.values())):
        console.print(f"No effect of {factor} can be tested: add seeds (--seeds=3).")
    elif factor:
        console.print(
            f"bold: {factor} has an effect, at 5 % for all lines together (Holm). Intervals hold for new seeds; that of a "
            "difference for all contrasts of its line."
        )


def _span(effect: "Effect") -> str:
    return f"{effect.term.span.b} − {effect.term.span.a}"


def _cells(line: "Line", factor: str | None, one_span: bool) -> list[str]:
    out = [line.name, line.layer, _number(line.mean.value)]
    if factor:
        effect = line.effects.get(factor)
        out += [] if one_span else [_span(effect) if effect else ""]
        e = effect.term.span.simultaneous if effect else None
        out += [_number(e.value, "+"), _p(effect.p), _bounds(e)] if effect and e else ["", "", ""]
    gained = f"{_number(line.gained.value, '+')} ({_bounds(line.gained)})" if line.gained else ""
    return [*out, gained.removesuffix(" ()"), _bounds(line.mean)]


def _number(value: float, sign: str = "-") -> str:
    # round, then + 0: no minus sign before a zero
    return f"{round(value, 3) + 0.0:{sign}.3f}".replace("-", "−") if math.isfinite(value) else "–"


def _bounds(e: stats.Estimate) -> str:
    return f"{_number(e.low)} to {_number(e.high)}" if e.known else ""


def _p(p: float) -> str:
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


# --------------------------------------------------------------------------------------------------------------------- csv


def _levels(lines: dict[str, list["Line"]]) -> list[dict[str, object]]:
    """Rows of levels.csv: the mean over cells, the difference from before training, and the mean of each level."""
    out: list[dict[str, object]] = []
    for dataset, found in lines.items():
        for line in found:
            named: list[tuple[str, stats.Estimate]] = [("all cells", line.mean)]
            if line.gained:
                named.append(("over untrained", line.gained))
            p = math.nan
            for factor, effect in line.effects.items():
                p, span = effect.p, effect.term.span
                named += [(f"{factor}={level}", e) for level, e in effect.term.levels]
                named.append((f"{factor} {span.b} - {span.a}", span.simultaneous))
            start = {"dataset": dataset} | ({} if line.epoch is None else {"epoch": line.epoch})
            start |= {"measure": line.name, "layer": line.layer}
            out += [start | {"of": of, "value": e.value, "low": e.low, "high": e.high, "runs": e.n, "p": p} for of, e in named]
    return out


def _csv(rows: Sequence[Mapping[str, object]], columns: Sequence[str] = ()) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]) if rows else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
