"""training.html: every measure over the training, from the snapshots of a sweep, as a self-contained page."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cnn_jax
from cnn_jax.report import html, page_tables, svg, words
from cnn_jax.report.inside_sweep.measures import titled
from cnn_jax.report.plots.figure import Figure, Row, colour

if TYPE_CHECKING:
    from cnn_jax.analysis.lines import Line

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 52, 404, 30, 200  # of a picture and its axes, in pixels
_APART = 26  # pixels between two labelled epochs


def page(lines: Mapping[str, Sequence["Line"]]) -> str:
    """The page of some data sets as the text of one HTML file: a picture per measure, a line per layer."""
    parts = []
    for i, (dataset, found) in enumerate(lines.items()):
        figure = over_training(found)
        markup = page_tables.heading(f"{figure.title}, {dataset}", figure.note) + html.panels(figure)
        parts.append((f"{figure.name}_{i}", dataset, markup + page_tables.download(figure.name, figure.rows)))
    epochs = sorted({line.epoch for found in lines.values() for line in found if line.epoch is not None})
    kicker = svg.tag("p", svg.escape(", ".join(lines)), class_="kicker")
    listed = f"Snapshots of epochs {', '.join(map(str, epochs))}; 0 is before training."
    header = f"<header><div>{kicker}{svg.tag('h1', 'Measures over the training')}<p>{svg.escape(listed)}</p></div></header>"
    footer = f"<footer>Definitions and sources: docs/measures.md. cnn_jax {cnn_jax.__version__}.</footer>"
    return html.document(f"cnn_jax: over the training, {', '.join(lines)}", header, parts, footer, html.style())


def over_training(lines: Sequence["Line"]) -> Figure:
    """Pictures of each measure: its mean over the cells by epoch, with the interval for new seeds; up to eight layers each."""
    by_name: dict[str, dict[str, list[Line]]] = {}
    for line in lines:
        if line.epoch is not None:
            by_name.setdefault(line.name, {}).setdefault(line.layer, []).append(line)
    pictures: list[str] = []
    rows: list[Row] = []
    x = _places(lines)
    for name, layers in by_name.items():
        every = [line for found in layers.values() for line in found]
        y = _scale([v for line in every for v in (line.mean.value, line.mean.low, line.mean.high)])
        for i in range(0, len(layers), svg.COLOURS):
            part = dict(list(layers.items())[i : i + svg.COLOURS])
            title = svg.tag("p", svg.escape(titled(name)), class_="cell")
            pictures.append(title + _legend(list(part)) + _picture(name, part, x, y))
        for line in every:
            e, start = line.mean, {"measure": name, "layer": line.layer, "epoch": line.epoch}
            rows.append(start | {"mean": e.value, "low": e.low, "high": e.high, "runs": e.n})
    note = "Means over the cells by epoch, a line per layer; bars are 95 % intervals for new seeds."
    return Figure("over_training", "Over the training", note, pictures, rows)


def _scale(values: Sequence[float]) -> svg.Scale:
    """A scale of a tenth at least: a measure that does not change is a flat line."""
    finite = [v for v in values if math.isfinite(v)]
    spread = [] if max(finite) - min(finite) > 1e-6 else [finite[0] - 0.05, finite[0] + 0.05]
    return svg.Scale.around([*finite, *spread], _BOTTOM, _TOP)


def _tick(value: float) -> str:
    return words.short(value).replace("-", "−")


def _places(lines: Sequence["Line"]) -> dict[int, float]:
    """Position of each epoch: equally spaced, as snapshots are dense at the start and sparse at the end."""
    epochs = sorted({line.epoch for line in lines if line.epoch is not None})
    step = (_RIGHT - _LEFT - 24) / max(1, len(epochs) - 1)
    return {epoch: round(_LEFT + 12 + i * step, 1) for i, epoch in enumerate(epochs)}


def _picture(name: str, layers: Mapping[str, Sequence["Line"]], x: Mapping[int, float], y: svg.Scale) -> str:
    body = svg.left_axis(y, _LEFT, _RIGHT, _tick)
    every = max(1, round(_APART * len(x) / (_RIGHT - _LEFT)))
    for i, (epoch, place) in enumerate(x.items()):
        if i % every == 0 or i == len(x) - 1:
            body.append(svg.text(place, _BOTTOM + 16, epoch, anchor="middle", class_="tick"))
    body.append(svg.text((_LEFT + _RIGHT) / 2, _BOTTOM + 34, "epoch", anchor="middle", class_="axis"))
    for i, (layer, found) in enumerate(layers.items()):
        shift = 1.6 * (i - (len(layers) - 1) / 2)  # bars of one epoch are placed side by side
        points = [(x[line.epoch] + shift, line.mean) for line in found if line.epoch is not None]
        marks = svg.line([(at, y(e.value)) for at, e in points], colour(i))
        for (at, e), line in zip(points, found, strict=True):
            low, high = (y(e.low), y(e.high)) if e.known else (float("nan"),) * 2
            says = f"{layer}, epoch {line.epoch}: {_tick(e.value)}"
            interval = f" ({_tick(e.low)} to {_tick(e.high)})" if e.known else ""
            title = svg.tag("title", svg.escape(says + interval))
            marks += svg.tag("g", title + svg.whisker(at, low, y(e.value), high, colour(i)))
        body.append(marks)
    return svg.picture(_WIDTH, _BOTTOM + 44, body, f"{name} over the training")


def _legend(layers: Sequence[str]) -> str:
    items = ""
    for i, layer in enumerate(layers):
        sample = svg.tag("svg", svg.line([(0, 5), (26, 5)], colour(i)), viewBox="0 0 26 10", aria_hidden="true")
        items += svg.tag("li", sample + svg.escape(layer))
    return svg.tag("ul", items, class_="legend")
