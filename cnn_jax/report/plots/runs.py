"""Single runs: learning curves and parallel coordinates."""

import itertools
import math
from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.report import svg, words
from cnn_jax.report.plots.figure import DOTS_WITH_TITLES, Figure, Row, clip, colour, percent, run_title

CURVES = 24  # cells whose learning curves are drawn
LINES = 1500  # of the parallel coordinates


PARTS = {"val_accuracy": "validation", "train_accuracy": "training"}
_Curves = list[tuple[stats.Record, str, list[svg.Point]]]  # run, metric, (epoch, accuracy)


def curves(analysis: stats.Analysis) -> Figure | None:
    """Learning curves: a small panel per cell, a colour per seed, validation and training. None for runs of a single epoch."""
    found = ((cell, _curves_of(cell)) for cell in analysis.cells)
    drawn = list(itertools.islice(((cell, lines) for cell, lines in found if lines), CURVES))
    if not drawn:
        return None
    every = [(metric, points) for _, lines in drawn for _, metric, points in lines]
    # The first epochs would flatten the rest: the scale begins where the slowest run is after a fifth of its epochs.
    floor = min(points[len(points) // 5][1] for _, points in every)
    y = svg.Scale.around([floor, *(v for _, points in every for _, v in points if v >= floor)], 122, 24)
    last = max(points[-1][0] for _, points in every)
    x = svg.Scale(min(1, last - 1), last, 40, 232)
    seeds = sorted({r["config"]["seed"] for _, lines in drawn for r, _, _ in lines})
    pictures = [_panel(cell, lines, x, y, seeds) for cell, lines in drawn]
    window = svg.tag("clipPath", svg.tag("rect", x=36, y=22, width=202, height=102), id="curve")
    pictures[0] = pictures[0].replace("</svg>", svg.tag("defs", window) + "</svg>")
    # The cells without curves are not "the best": a sweep over epochs may have cells of one epoch.
    whole = sum(bool(_curves_of(cell)) for cell in analysis.cells)
    more = f" The best {CURVES} of {whole} cells are drawn." if whole > len(drawn) else ""
    metrics = dict.fromkeys(metric for metric, _ in every)
    below = "; the first epochs lie below the picture" if min(v for _, points in every for _, v in points) < floor else ""
    note = f"Accuracy in % by epoch, a colour per seed{below}.{more}"
    rows: list[Row] = [
        {"cell": cell.label, "seed": r["config"]["seed"]} | h for cell, _ in drawn for r in _by_seed(cell) for h in r["history"]
    ]
    legend = _legend([m for m in PARTS if m in metrics], seeds)
    return Figure("learning_curves", "Learning curves", note, pictures, rows, "small", legend)


def _by_seed(cell: stats.Cell) -> list[stats.Record]:
    return sorted(cell.done, key=lambda r: r["config"]["seed"])


def _curves_of(cell: stats.Cell) -> _Curves:
    """The curves of a cell with at least two points."""
    found = []
    for r in _by_seed(cell):
        for metric in PARTS:
            points = [(h["epoch"], h[metric]) for h in r["history"] if h.get(metric) is not None]
            if len(points) > 1:
                found.append((r, metric, points))
    return found


def _panel(cell: stats.Cell, lines: _Curves, x: svg.Scale, y: svg.Scale, seeds: Sequence[int]) -> str:
    ticks = int(min(4, max(1, x.high - 1)))  # an epoch has no halves
    body = svg.left_axis(y, 36, 236, percent, "accuracy, %")
    body += svg.bottom_axis(x, 24, 122, lambda v: f"{v:g}", "epoch", ticks)
    paths = []
    for run, metric, points in sorted(lines, key=lambda line: line[1]):  # training below validation
        drawn = svg.line([(x(e), y(v)) for e, v in points], f"{_seed_colour(run['config']['seed'], seeds)} {PARTS[metric]}")
        says = run_title(cell, run, f"{words.percent(points[-1][1])} {PARTS[metric]} accuracy in the last epoch")
        paths.append(svg.tag("g", svg.tag("title", svg.escape(says)) + drawn))
    body.append(svg.tag("g", "".join(paths), clip_path="url(#curve)"))
    return svg.tag("p", svg.escape(cell.label), class_="cell") + svg.picture(240, 160, body, f"learning curves of {cell.label}")


def _seed_colour(seed: int, seeds: Sequence[int]) -> str:
    return colour(seeds.index(seed)) if len(seeds) <= svg.COLOURS else "c0 many"


def _legend(metrics: Sequence[str], seeds: Sequence[int]) -> str:
    """Legend: parts by dashes, seeds by colour; for very many seeds, only their number."""
    marks = [(PARTS[metric], f"c7 {PARTS[metric]}") for metric in metrics]
    if len(seeds) <= svg.COLOURS:
        marks += [(f"seed {seed}", _seed_colour(seed, seeds)) for seed in seeds]
    else:
        marks.append((f"a line for each of {len(seeds)} seeds", "c0 many"))
    items = ""
    for name, class_ in marks:
        sample = svg.tag("svg", svg.line([(0, 5), (26, 5)], class_), viewBox="0 0 26 10", aria_hidden="true")
        items += svg.tag("li", sample + svg.escape(name))
    return svg.tag("ul", items, class_="legend")


def parallel(analysis: stats.Analysis) -> Figure | None:
    """Parallel coordinates: a line per run through its factors, costs and accuracies; page.js lets a reader brush the axes."""
    runs = [(c, r) for c in analysis.cells for r in sorted(c.done, key=lambda r: r["config"]["seed"])]
    if len(runs) < 2:
        return None
    metrics, units = ["val_accuracy", "test_accuracy"] if analysis.validated else [analysis.metric], words.units(analysis)
    costs = [k for k in ("params", "train_seconds") if len({r.get(k) for _, r in runs}) > 1]
    width, top, bottom = 900, 46, 300
    names = [*analysis.design.factors, *costs, *metrics]
    axes: list[tuple[str, svg.Scale, dict[stats.Level, float] | None]] = []
    for name in names:
        levels = analysis.design.factors.get(name)
        if levels and (len(levels) <= 12 or not stats.numeric(levels)):
            axes.append((name, svg.Scale(-0.5, len(levels) - 0.5, bottom, top), {v: float(i) for i, v in enumerate(levels)}))
        else:
            values = [c.levels[name] if levels else r.get(name) for c, r in runs]
            finite = [float(v) for v in values if v is not None]
            log = bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 20
            axes.append((name, svg.Scale.around(finite, bottom, top, log=log), None))
    ranked = sorted(runs, key=lambda cr: analysis.measured.sign * cr[1][analysis.metric])
    spread = {id(r): (i + 0.5) / len(runs) - 0.5 for i, (_, r) in enumerate(ranked)}
    xs = [round(72 + i * (width - 142) / max(1, len(names) - 1), 1) for i in range(len(names))]
    titles = {
        "params": "parameters",
        "train_seconds": "training, s",
        "val_accuracy": "validation, %",
        "test_accuracy": "test, %",
    }
    titles = {n: titles.get(n, units.axis if n in metrics else n) for n in names}
    crowded = any(3.8 * (len(a) + len(b)) > xs[1] - xs[0] for a, b in itertools.pairwise(titles.values()))
    rows: list[Row] = []
    lines: list[str] = []
    for cell, r in runs:
        values = [cell.levels[n] if n in cell.levels else r.get(n) for n in names]
        rows.append(
            {n: stats.text(v) if n in cell.levels else v for n, v in zip(names, values, strict=True)} | {"trial": r["trial"]}
        )
        if len(lines) == LINES:
            continue
        # Runs of one level are drawn side by side in order of accuracy, or they would hide one another.
        place = spread[id(r)]
        heights = [at[v] + 0.4 * place if at else v for v, (_, _, at) in zip(values, axes, strict=True)]
        ys = [None if v is None else scale(v) for v, (_, scale, _) in zip(heights, axes, strict=True)]
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
        shade = round(9 * (place + 0.5))
        title = svg.tag("title", svg.escape(run_title(cell, r, units.value(r[analysis.metric]))))
        d = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        where = " ".join("-" if y is None else f"{y:g}" for y in ys)
        lines.append(svg.tag("path", title if len(runs) <= DOTS_WITH_TITLES else "", d=d, class_=f"run v{shade}", data_y=where))
    body = lines[::-1]
    for i, (x, (name, scale, at)) in enumerate(zip(xs, axes, strict=True)):
        marks = [
            svg.tag("line", class_="pole", x1=x, x2=x, y1=top, y2=bottom),
            # Long adjacent names are in two rows.
            svg.text(x, 34 if i % 2 and crowded else 18, titles[name], anchor="middle", class_="axis"),
        ]
        form = units.tick if name in metrics else words.short
        ticks = [(float(i), stats.text(v)) for v, i in at.items()] if at else [(t, form(t)) for t in scale.ticks(5)]
        step = math.ceil(len(ticks) / 14)
        marks += [svg.text(x + 6, scale(t) + 4, clip(label, 14), class_="tick halo") for t, label in ticks[::step]]
        marks.append(svg.tag("rect", class_="brush", x=x - 14, y=top, width=28, height=bottom - top))
        body.append(svg.tag("g", "".join(marks), class_="axis-of-runs"))
    more = f" The best {LINES:,} of {len(runs):,} runs are drawn." if len(runs) > LINES else ""
    note = (
        "A line is a run, dark is poor, light is good. Drag along an axis to keep the runs that pass there; click it to show "
        f"all again.{more}"
    )
    picture = svg.picture(width, 320, body, "parallel coordinates of all runs").replace("<svg ", '<svg class="parallel" ', 1)
    return Figure("parallel", "Explore all runs", note, [picture], rows, "wide")
