"""Further output of `launch.py inspect`: numbers as CSV, and a summary for the terminal."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from cnn_jax.console import Column, Row, print_table
from cnn_jax.report import inside as pages
from cnn_jax.report import table, words
from cnn_jax.report.inside import Shown

if TYPE_CHECKING:
    from cnn_jax.analysis.inside import LayerView

LISTED = 8  # numbers of images in a sentence


def csv_files(networks: Sequence[Shown]) -> dict[str, str]:
    """Text of each CSV file by its name; every row names its trial."""
    channels: list[dict[str, object]] = []
    mistakes: list[dict[str, object]] = []
    confusion: list[dict[str, object]] = []
    attributions: list[dict[str, object]] = []
    for shown in networks:
        inside, trial = shown.inside, {"trial": _id(shown)}
        names = inside.dataset.info.class_names
        for view in inside.layers:
            channels += [trial | row for row in _channels(view)]
        for m in inside.mistakes:
            row = {"image": m.image, "label": names[m.label], "answer": names[m.answer]}
            mistakes.append(trial | row | {"p_label": m.of_label, "p_answer": m.of_answer})
        for i, j in zip(*np.nonzero(inside.matrix), strict=True):
            confusion.append(trial | {"label": names[i], "answer": names[j], "images": int(inside.matrix[i, j])})
        for found in inside.attributions:
            known = found.correlation[~np.isnan(found.correlation)]
            mean = float(known.mean()) if known.size else None
            row = {"method": found.method, "rank_correlation": mean, "images": int(known.size)}
            attributions.append(trial | row | {"blank": len(found.correlation) - int(known.size)})
    files = {"channels": channels, "mistakes": mistakes, "confusion": confusion, "attributions": attributions}
    return {f"{name}.csv": table.to_csv(rows, ("trial",)) for name, rows in files.items()}


def _id(shown: Shown) -> str:
    return shown.inside.network.trial.id if shown.inside.network.trial else shown.inside.network.label


def _channels(view: "LayerView") -> list[dict[str, object]]:
    reached = dict(zip(view.maximised.channels, view.maximised.values.tolist(), strict=True))
    rows = []
    for channel in range(view.shape[-1]):
        top = view.top.images[channel].tolist()
        row = {"layer": view.name, "channel": channel, "silent": bool(view.responses.silent[channel])}
        row |= {"strongest": float(view.top.values[channel, 0]), "maximised": reached.get(channel), "images": top}
        rows.append(row)
    return rows


def terminal(networks: Sequence[Shown], console: Console) -> None:
    """Print the summary of each network: accuracy, layers, sanity checks, confusions."""
    for i, shown in enumerate(networks):
        if i:
            console.print()
        _one(shown, console)
        if len(shown.cell.records) > 1 and not any(other.cell == shown.cell for other in networks[i + 1 :]):
            never = shown.cell.never_right
            which = f": {_numbers(never)}" if never else ""
            seeds = f"None of {len(shown.cell.records)} seeds"
            console.print(f"{seeds} gets {words.count(len(never), 'test image')} right{which}.")


def _one(shown: Shown, console: Console) -> None:
    inside = shown.inside
    console.print(f"{_id(shown)}{f' ({shown.role})' if shown.role else ''}", style="bold", soft_wrap=True)
    console.print(_accuracy(shown))
    columns = [Column("layer", left=True), Column("output", left=True), Column("sees", left=True), Column("silent")]
    columns += [Column("strongest image", optional=True), Column("maximised", optional=True)]
    print_table(console, columns, [Row(_layer(view)) for view in inside.layers])
    if inside.attributions:
        parts = [f"{found.method} {pages.correlation_text(found)}" for found in inside.attributions]
        console.print(f"Sanity check, rank correlation with random parameters: {', '.join(parts)}.")
    if pairs := pages.confused_pairs(inside, 3):
        console.print(f"Most confused: {', '.join(pairs)}; surest mistakes: {_numbers([m.image for m in inside.mistakes])}.")


def _accuracy(shown: Shown) -> str:
    inside = shown.inside
    wrong, total = len(inside.mistakes), len(inside.logits)
    text = f"{words.percent(1 - wrong / total)} of {total:,} test images right, {wrong:,} wrong"
    record = inside.network.record
    return text + ("." if record is None or record.params is None else f"; {record.params:,} parameters.")


def _layer(view: "LayerView") -> tuple[str, ...]:
    strongest = float(np.median(view.top.values[list(view.channels), 0]))
    return (
        view.name,
        "x".join(map(str, view.shape)),
        "image" if view.field is None else "x".join(map(str, view.field)),
        f"{int(view.responses.silent.sum())} of {view.shape[-1]}",
        _short(strongest),
        _short(float(np.median(view.maximised.values))),
    )


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _numbers(images: Sequence[int]) -> str:
    more = " and others" if len(images) > LISTED else ""
    return ", ".join(f"#{i}" for i in images[:LISTED]) + more
