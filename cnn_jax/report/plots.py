"""The pictures of a report: each a figure of one or more SVGs with the rows behind it."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_jax import stats
from cnn_jax.report import svg, words

DOTS_WITH_TITLES = 600  # more are drawn as one path
CURVES = 24  # cells whose learning curves are drawn
FOREST = 40  # cells drawn against the best
HEATMAP = 20
LINES = 1500  # of the parallel coordinates
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Figure:
    """Pictures under one title. `rows` is the data behind them; `note` says how to read them."""

    name: str
    title: str
    note: str
    pictures: list[str]
    rows: list[Row]
    size: str = ""  # class of the container: "" for panels side by side, "wide", "small"


def _percent(value: float) -> str:
    return f"{100 * value:.4g}"


def _colour(i: int) -> str:
    return f"c{i % svg.COLOURS}"


def _levels(cell: stats.Cell) -> Row:
    return {name: stats.text(level) for name, level in cell.levels.items()}


def _shared_scale(analysis: stats.Analysis, start: float, end: float) -> svg.Scale:
    return svg.Scale.around([v for c in analysis.cells for v in c.values(analysis.metric)], start, end)


# --------------------------------------------------------------------------------------------------------------- factors


def by_factor(analysis: stats.Analysis) -> Figure:
    """A panel per factor: every run as a dot, each level's marginal mean with its interval."""
    metric, y = analysis.metric, _shared_scale(analysis, 258, 34)
    runs = sum(len(c.values(metric)) for c in analysis.cells)
    marginal = {t.name: dict(t.levels) for t in analysis.effects.terms if len(t.factors) == 1}
    pictures, rows = [], []
    for factor, levels in (analysis.design.factors or {"model": (None,)}).items():
        if len(levels) > 12:
            panel, some = _scatter(analysis, factor, y, named=runs <= DOTS_WITH_TITLES)
            pictures.append(panel)
            rows += some
            continue
        body = svg.left_axis(y, 44, 350, _percent, f"{words.METRICS[metric]}, %")
        for i, level in enumerate(levels):
            x = 44 + 306 * (i + 0.5) / len(levels)
            cells = [c for c in analysis.cells if factor not in c.levels or c.levels[factor] == level]
            points, titles = [], []
            for j, cell in enumerate(cells):
                # Cells stand side by side within a level, so that a level's spread is seen to be between cells or within.
                at = x + min(200 / len(levels), 90) * ((j + 0.5) / len(cells) - 0.5) * 0.8
                for seed, value in zip(_seeds(cell, metric), cell.values(metric), strict=True):
                    points.append((round(at, 1), y(value)))
                    titles.append(f"{cell.label} seed {seed}: {words.percent(value)}")
                    rows.append({"factor": factor, "level": stats.text(level), "cell": cell.label, "seed": seed, metric: value})
            body.append(svg.dots(points, "c0", titles if runs <= DOTS_WITH_TITLES else None))
            name = stats.text(level) if factor in analysis.design.factors else ""
            e = marginal.get(factor, {}).get(name) or stats.mean_interval(
                np.array([v for c in cells for v in c.values(metric)])
            )
            if e.n:
                at = x + min(200 / len(levels), 90) * 0.5
                label = svg.tag("title", svg.escape(f"mean of {factor} {name}: {words.interval(e)}, {e.n} runs"))
                low, high = (y(e.low), y(e.high)) if e.known else (math.nan, math.nan)
                body.append(svg.tag("g", label + svg.whisker(round(at, 1), low, y(e.value), high, "c3")))
            body.append(svg.text(x, 276, _short(name, len(levels)), anchor="middle", class_="tick strong"))
        body.append(svg.text(197, 296, factor if factor in analysis.design.factors else "", anchor="middle", class_="axis"))
        pictures.append(svg.picture(360, 304, body, f"{words.METRICS[metric]} by {factor}"))
    note = (
        "Every dot is a run, dots in one column are the seeds of one cell; the diamond is the level's mean over all cells with "
        "its 95 % interval."
    )
    return Figure("accuracy_by_factor", "Accuracy by factor", note, pictures, rows)


def _short(name: str, levels: int) -> str:
    room = max(3, 46 // max(levels, 1))
    return name if len(name) <= room else name[: room - 1] + "…"


def _seeds(cell: stats.Cell, metric: str) -> list[int]:
    return sorted(r["config"]["seed"] for r in cell.done if r.get(metric) is not None)


def _scatter(analysis: stats.Analysis, factor: str, y: svg.Scale, *, named: bool) -> tuple[str, list[Row]]:
    """A factor of very many levels: numbers along x, logarithmic if they span decades; words in order."""
    levels = analysis.design.factors[factor]
    number = {v: float(v) if stats.numeric(levels) and not isinstance(v, tuple) else float(i) for i, v in enumerate(levels)}
    low, high = min(number.values()), max(number.values())
    x = svg.Scale.around(number.values(), 50, 345, log=low > 0 and high / low > 30)
    body = svg.left_axis(y, 44, 350, _percent, f"{words.METRICS[analysis.metric]}, %")
    body += svg.bottom_axis(x, 34, 258, lambda v: f"{v:g}", factor)
    points, titles, rows = [], [], []
    for cell in analysis.cells:
        for seed, value in zip(_seeds(cell, analysis.metric), cell.values(analysis.metric), strict=True):
            points.append((x(number[cell.levels[factor]]), y(value)))
            titles.append(f"{cell.label} seed {seed}: {words.percent(value)}")
            level = stats.text(cell.levels[factor])
            rows.append({"factor": factor, "level": level, "cell": cell.label, "seed": seed, analysis.metric: value})
    body.append(svg.dots(points, "c0", titles if named else None))
    return svg.picture(360, 304, body, f"{words.METRICS[analysis.metric]} by {factor}"), rows


def interactions(analysis: stats.Analysis) -> Figure | None:
    """A panel per pair of factors: a line per level of one over the levels of the other; parallel lines: no interaction."""
    factors = {name: levels for name, levels in analysis.design.factors.items() if len(levels) <= svg.COLOURS}
    pairs = list(itertools.combinations(factors, 2))[:6]
    if not pairs:
        return None
    pictures, rows = [], []
    for a, b in pairs:
        if len(factors[b]) > len(factors[a]):
            a, b = b, a
        estimates = {(u, v): _cell_mean(analysis, {a: u, b: v}) for u in factors[a] for v in factors[b]}
        y = svg.Scale.around([x for e in estimates.values() if e for x in (e.low, e.high, e.value)], 250, 58)
        body = svg.left_axis(y, 44, 350, _percent)
        width = 306 / len(factors[a])
        for i, v in enumerate(factors[b]):
            line = []
            for j, u in enumerate(factors[a]):
                e = estimates[u, v]
                if e is None:
                    continue
                x = round(44 + width * (j + 0.5) + (i - (len(factors[b]) - 1) / 2) * min(10, width / len(factors[b]) * 0.6), 1)
                line.append((x, y(e.value)))
                low, high = (y(e.low), y(e.high)) if e.known else (math.nan, math.nan)
                title = svg.tag(
                    "title", svg.escape(f"{a} {stats.text(u)}, {b} {stats.text(v)}: {words.interval(e)}, {e.n} runs")
                )
                body.append(svg.tag("g", title + svg.whisker(x, low, y(e.value), high, _colour(i))))
                value = {"mean": e.value, "low": e.low, "high": e.high, "runs": e.n}
                rows.append({"x": a, "x_level": stats.text(u), "line": b, "line_level": stats.text(v), **value})
            body.append(svg.line(line, _colour(i)))
        body += _legend(f"{b}:", [stats.text(v) for v in factors[b]], 14)
        for j, u in enumerate(factors[a]):
            name = _short(stats.text(u), len(factors[a]))
            body.append(svg.text(44 + width * (j + 0.5), 268, name, anchor="middle", class_="tick strong"))
        body.append(svg.text(197, 290, a, anchor="middle", class_="axis"))
        pictures.append(svg.picture(360, 300, body, f"interaction of {a} and {b}"))
    note = (
        f"Mean {words.METRICS[analysis.metric]} in %, with 95 % intervals. Parallel lines: the two factors act independently."
    )
    return Figure("interactions", "Do factors depend on each other?", note, pictures, rows)


def _cell_mean(analysis: stats.Analysis, levels: dict[str, stats.Level]) -> stats.Estimate | None:
    chosen = np.array([all(c.levels[k] == v for k, v in levels.items()) for c in analysis.cells])
    return analysis.means.contrast(chosen / chosen.sum()) if chosen.any() else None


def _legend(title: str, names: Sequence[str], y: float) -> list[str]:
    out, x = [svg.text(4, y, title, class_="axis")], 12 + 6.6 * len(title)
    for i, name in enumerate(names):
        if x + 22 + 7 * len(name) > 356:
            x, y = 12.0, y + 16
        out.append(svg.line([(x, y - 4), (x + 16, y - 4)], _colour(i)))
        out.append(svg.text(x + 20, y, name, class_="tick strong"))
        x += 34 + 7 * len(name)
    return out


# ------------------------------------------------------------------------------------------------------------------ cells


def against_best(analysis: stats.Analysis) -> Figure | None:
    """Every cell's difference to the best one with its interval: those not told from it stand out."""
    shown = analysis.comparisons[:FOREST]
    if not shown or analysis.best is None:
        return None
    rows: list[Row] = [
        {
            "best": analysis.best.label, "cell": c.cell.label, "difference": c.difference.value, "low": c.difference.low,
            "high": c.difference.high, "p_best_better": c.better, "p_corrected": c.p, "runs": c.difference.n,
        }
        for c in analysis.comparisons
    ]  # fmt: skip
    longest = min(44, max(len(c.cell.label) for c in shown))
    left, height = 12 + 6.6 * longest, 44 + 22 * len(shown)
    ends = [v for c in shown for v in (-c.difference.low, -c.difference.high, -c.difference.value)]
    x = svg.Scale.around([0.0, *ends], left, 710)
    body = svg.bottom_axis(x, 10, height - 30, lambda v: words.points(v) if v else "0", "points below or above the best cell")
    body.append(svg.tag("line", class_="zero", x1=x(0), x2=x(0), y1=10, y2=height - 30))
    for i, c in enumerate(shown):
        y = 24 + 22 * i
        d = c.difference
        low, high = (x(-d.high), x(-d.low)) if d.known else (math.nan, math.nan)
        title = f"{c.cell.label}: {words.points(-d.value)} points ({words.points(-d.high)} to {words.points(-d.low)}), corrected p {c.p:.2g}"
        colour = "c7" if c.distinguishable else "c2"
        mark = svg.tag("title", svg.escape(title)) + svg.whisker(y, low, x(-d.value), high, colour, across=True)
        body.append(svg.text(left - 10, y + 4, _clip(c.cell.label, 44), anchor="end", class_="tick strong"))
        body.append(svg.tag("g", mark))
    more = f" The nearest {FOREST} of {len(rows)} cells are drawn." if len(rows) > FOREST else ""
    note = (
        f"Difference to {analysis.best.label} with its 95 % interval. Green: cannot be told from the best after correction (Holm, "
        f"all pairs of cells); grey: worse.{more}"
    )
    picture = svg.picture(720, height + 10, body, "difference of each cell to the best")
    return Figure("against_best", "Which cells can be told from the best?", note, [picture], rows, "wide")


def _clip(name: str, room: int) -> str:
    return name if len(name) <= room else "…" + name[-room + 1 :]


def cost(analysis: stats.Analysis) -> Figure | None:
    """Accuracy against what it costs: parameters, MACs, training time; with the Pareto front."""
    metric = analysis.metric
    titles = {"params": "parameters", "macs": "multiply-accumulates per image", "train_seconds": "training time of a run, s"}
    rows: list[Row] = []
    for cell in analysis.cells:
        e = analysis.interval(cell)
        facts = {"params": cell.fact("params"), "macs": cell.fact("macs"), "train_seconds": cell.mean("train_seconds")}
        row = _levels(cell) | facts | {"receptive_field": cell.fact("receptive_field")}
        rows.append({"cell": cell.label} | row | {metric: e.value, "low": e.low, "high": e.high, "runs": e.n})
    pictures = []
    for key, title in titles.items():
        known = [r for r in rows if r[key] is not None and r[key] > 0]
        if not known:
            continue
        costs = [r[key] for r in known]
        few = len(known) <= 60
        y = svg.Scale.around([v for r in known for v in ((r["low"], r["high"], r[metric]) if few else (r[metric],))], 250, 34)
        x = svg.Scale.around(costs, 54, 345, log=max(costs) / min(costs) > 5)
        body = svg.left_axis(y, 44, 350, _percent, f"{words.METRICS[metric]}, %")
        body += svg.bottom_axis(x, 34, 250, words.short, title, 4)
        front: list[Row] = []
        for r in sorted(known, key=lambda r: (r[key], -r[metric])):
            if not front or r[metric] > front[-1][metric]:
                front.append(r)
        steps = [(x(front[0][key]), y(front[0][metric]))]
        for r in front[1:]:
            steps += [(x(r[key]), steps[-1][1]), (x(r[key]), y(r[metric]))]
        body.append(svg.line(steps, "c1"))
        if few:
            for r in known:
                label = f"{r['cell']}: {words.percent(r[metric])}, {words.short(r[key])} {title}, receptive field {r['receptive_field']}"
                low, high = (y(r["low"]), y(r["high"])) if math.isfinite(r["low"]) else (math.nan, math.nan)
                mark = svg.whisker(x(r[key]), low, y(r[metric]), high, "c1" if r in front else "c0")
                body.append(svg.tag("g", svg.tag("title", svg.escape(label)) + mark))
        else:
            body.append(svg.dots([(x(r[key]), y(r[metric])) for r in known], "c0"))
            body.append(svg.dots([(x(r[key]), y(r[metric])) for r in front], "c1"))
        pictures.append(svg.picture(360, 292, body, f"{words.METRICS[metric]} against {title}"))
    note = (
        "A diamond is a cell. The orange line is the Pareto front: no cell has better accuracy for less. If a factor also changes "
        "these costs, its effect may be theirs."
    )
    return Figure("cost", "What does accuracy cost?", note, pictures, rows) if pictures else None


def curves(analysis: stats.Analysis) -> Figure | None:
    """Learning curves: a small panel per cell, a line per seed."""
    metric = "val_accuracy" if analysis.validated else "train_accuracy"
    drawn, rows = [], []
    for cell in analysis.cells:
        lines = []
        for r in sorted(cell.done, key=lambda r: r["config"]["seed"]):
            seed = r["config"]["seed"]
            points = [(h["epoch"], h[metric]) for h in r["history"] if h.get(metric) is not None]
            if points:
                lines.append(points)
            if len(drawn) < CURVES:
                rows += [{"cell": cell.label, "seed": seed} | h for h in r["history"]]
        if lines:
            drawn.append((cell, lines))
        if len(drawn) == CURVES:
            break
    if not drawn:
        return None
    # The first epochs would flatten all that follows: the scale begins where the slowest run is after a fifth of its epochs.
    floor = min(points[len(points) // 5][1] for _, lines in drawn for points in lines)
    y = svg.Scale.around([floor, *(v for _, lines in drawn for points in lines for _, v in points if v >= floor)], 122, 24)
    last = max(points[-1][0] for _, lines in drawn for points in lines)
    x = svg.Scale(min(1, last - 1), last, 40, 232)
    pictures = []
    for cell, lines in drawn:
        body = [svg.text(2, 13, _clip(cell.label, 38), class_="tick strong")]
        body += svg.left_axis(dataclasses.replace(y), 36, 236, _percent) + svg.bottom_axis(
            x, 24, 122, lambda v: f"{v:g}", "", 4
        )
        paths = [svg.line([(x(e), y(v)) for e, v in points], _colour(i)) for i, points in enumerate(lines)]
        body.append(svg.tag("g", "".join(paths), clip_path="url(#curve)"))
        pictures.append(svg.picture(240, 144, body, f"learning curves of {cell.label}"))
    clip = svg.tag("clipPath", svg.tag("rect", x=36, y=22, width=202, height=102), id="curve")
    pictures[0] = pictures[0].replace("</svg>", svg.tag("defs", clip) + "</svg>")
    more = f" The best {CURVES} of {len(analysis.cells)} cells are drawn." if len(analysis.cells) > len(drawn) else ""
    of = "Validation accuracy" if metric == "val_accuracy" else "Training accuracy (nothing was held out)"
    note = f"{of} in % by epoch, a line per seed; the first epochs may lie below the picture.{more}"
    return Figure("learning_curves", "Learning curves", note, pictures, rows, "small")


def parallel(analysis: stats.Analysis) -> Figure | None:
    """Parallel coordinates: a line per run through its factors, costs and accuracies; page.js lets a reader brush the axes."""
    runs = [(c, r) for c in analysis.cells for r in sorted(c.done, key=lambda r: r["config"]["seed"])]
    if len(runs) < 2:
        return None
    metrics = ["val_accuracy", "test_accuracy"] if analysis.validated else ["test_accuracy"]
    costs = [k for k in ("params", "train_seconds") if len({r.get(k) for _, r in runs}) > 1]
    width, top, bottom = 900, 46, 300
    names = [*analysis.design.factors, *costs, *metrics]
    axes: list[tuple[str, svg.Scale, dict[Any, float] | None]] = []
    for name in names:
        levels = analysis.design.factors.get(name)
        if levels and (len(levels) <= 12 or not stats.numeric(levels)):
            axes.append((name, svg.Scale(-0.5, len(levels) - 0.5, bottom, top), {v: float(i) for i, v in enumerate(levels)}))
        else:
            values = [c.levels[name] if levels else r.get(name) for c, r in runs]
            finite = [float(v) for v in values if v is not None]
            log = bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 20
            axes.append((name, svg.Scale.around(finite, bottom, top, log=log), None))
    xs = [round(60 + i * (width - 130) / max(1, len(names) - 1), 1) for i in range(len(names))]
    rank = {id(r): i for i, (_, r) in enumerate(sorted(runs, key=lambda cr: cr[1][analysis.metric]))}
    rows, lines = [], []
    for cell, r in runs:
        values = [cell.levels[n] if n in cell.levels else r.get(n) for n in names]
        rows.append(
            {n: stats.text(v) if n in cell.levels else v for n, v in zip(names, values, strict=True)} | {"trial": r["trial"]}
        )
        if len(lines) == LINES:
            continue
        ys = [s(at[v] if at else v) if v is not None else None for v, (_, s, at) in zip(values, axes, strict=True)]
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
        shade = round(9 * rank[id(r)] / (len(runs) - 1))
        title = svg.tag("title", svg.escape(f"{cell.label} seed {r['config']['seed']}: {words.percent(r[analysis.metric])}"))
        d = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        where = " ".join("-" if y is None else f"{y:g}" for y in ys)
        lines.append(svg.tag("path", title if len(runs) <= DOTS_WITH_TITLES else "", d=d, class_=f"run v{shade}", data_y=where))
    body = lines[::-1]
    for x, (name, scale, at) in zip(xs, axes, strict=True):
        marks = [
            svg.tag("line", class_="pole", x1=x, x2=x, y1=top, y2=bottom),
            svg.text(x, 18, name, anchor="middle", class_="axis"),
        ]
        form = _percent if name in metrics else words.short
        ticks = [(float(i), stats.text(v)) for v, i in at.items()] if at else [(t, form(t)) for t in scale.ticks(5)]
        step = math.ceil(len(ticks) / 14)
        marks += [svg.text(x + 6, scale(t) + 4, _clip(label, 14), class_="tick halo") for t, label in ticks[::step]]
        marks.append(svg.tag("rect", class_="brush", x=x - 14, y=top, width=28, height=bottom - top))
        body.append(svg.tag("g", "".join(marks), class_="axis-of-runs"))
    more = f" The best {LINES:,} of {len(runs):,} runs are drawn." if len(runs) > LINES else ""
    note = f"A line is a run, dark is poor, light is good. Drag along an axis to keep the runs that pass there; click it to let all back.{more}"
    picture = svg.picture(width, 320, body, "parallel coordinates of all runs").replace("<svg ", '<svg class="parallel" ', 1)
    return Figure("parallel", "Explore all runs", note, [picture], rows, "wide scroll")


# ------------------------------------------------------------------------------------------------------------------ images


def noise_floor(analysis: stats.Analysis) -> Figure | None:
    """The smallest difference that a number of seeds resolves."""
    if not analysis.sd > 0:
        return None
    many = [2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30]
    pairs = math.comb(len(analysis.cells), 2)
    rows: list[Row] = [
        {"seeds": n, "two_given_cells": stats.smallest_difference(analysis.sd, n), "all_pairs_corrected": stats.smallest_difference(analysis.sd, n, (1 - stats.LEVEL) / max(1, pairs))}
        for n in many
    ]  # fmt: skip
    now = next((r for r in rows if r["seeds"] == analysis.seeds), None)
    top = max(rows[1]["two_given_cells"], now["two_given_cells"] if now else 0) * 1.6
    x, y = svg.Scale(1.8, 33, 44, 345, log=True), svg.Scale(0, top, 250, 34)
    body = svg.left_axis(y, 44, 350, lambda v: f"{100 * v:.3g}", "smallest difference found, points")
    for n in (2, 3, 5, 10, 20, 30):
        body.append(svg.text(x(n), 268, n, anchor="middle", class_="tick"))
    body.append(svg.text(197, 288, "seeds per cell", anchor="middle", class_="axis"))
    for i, key in enumerate(("two_given_cells", "all_pairs_corrected")[: 1 + (pairs > 1)]):
        points = [(x(r["seeds"]), y(r[key])) for r in rows if r[key] <= top]
        body.append(svg.line(points, _colour(i)))
        body.append(
            svg.dots(points, _colour(i), [f"{r['seeds']} seeds: {words.spread(r[key])} points" for r in rows if r[key] <= top])
        )
    body.append(svg.text(346, 52, "two given cells", anchor="end", class_="key c0"))
    if pairs > 1:
        body.append(svg.text(346, 70, f"any two of {len(analysis.cells)} cells", anchor="end", class_="key c1"))
    if now:
        body.append(svg.tag("line", class_="zero", x1=x(now["seeds"]), x2=x(now["seeds"]), y1=34, y2=250))
        body.append(svg.text(x(now["seeds"]) + 5, 46, "this sweep", class_="tick"))
    note = f"The difference in {words.METRICS[analysis.metric]} that seeds find with probability {stats.POWER:g}, from the spread between seeds ({words.spread(analysis.sd)} points)."
    return Figure(
        "noise_floor",
        "What could this sweep have seen?",
        note,
        [svg.picture(360, 296, body, "smallest difference by seeds")],
        rows,
    )


def disagreement(analysis: stats.Analysis) -> tuple[Figure, dict[str, Any]] | None:
    """A matrix of how often runs of two cells disagree on a test image; page.js lists the images that flip between two cells.

    Also returns what that needs: per cell the number of runs, and per image that not all runs agree on its right runs.
    """
    cells, rates_KN = stats.rates(analysis.cells)
    if not cells:
        return None
    shown, rate = cells[:HEATMAP], rates_KN[:HEATMAP]
    images = rate.shape[1]
    between = (rate @ (1 - rate).T + (1 - rate) @ rate.T) / images
    runs = [len(stats.correct_SN(c)) for c in shown]
    for i, n in enumerate(runs):  # two different runs of one cell: without the pairs of a run with itself
        between[i, i] = between[i, i] * n / (n - 1) if n > 1 else math.nan
    rows: list[Row] = [
        {"a": a.label, "b": b.label, "disagreement": between[i, j], "images_flipped": len(stats.flipped(rate[i], rate[j]))}
        for i, a in enumerate(shown)
        for j, b in enumerate(shown)
    ]
    size, left = 30, 14 + 6.6 * min(40, max(len(c.label) for c in shown))
    width, top = left + size * len(shown) + 10, 26
    peak = np.nanmax(between) if np.isfinite(between).any() else 1.0
    body = []
    for i, a in enumerate(shown):
        body.append(
            svg.text(left - 8, top + size * i + 19, f"{_clip(a.label, 40)}  {i + 1}", anchor="end", class_="tick strong")
        )
        body.append(svg.text(left + size * (i + 0.5), top - 8, i + 1, anchor="middle", class_="tick strong"))
        for j, b in enumerate(shown):
            value = between[i, j]
            title = f"{a.label} and {b.label}: a run of each disagree on {100 * value:.2f} % of the images"
            strength = 0.0 if not np.isfinite(value) or peak == 0 else float(value / peak)
            box = svg.tag(
                "rect",
                class_="heat",
                x=left + size * j,
                y=top + size * i,
                width=size - 2,
                height=size - 2,
                rx=3,
                fill_opacity=round(0.06 + 0.94 * strength, 3),
            )
            label = svg.text(
                left + size * (j + 0.5) - 1,
                top + size * i + 18,
                f"{100 * value:.1f}" if np.isfinite(value) else "–",
                anchor="middle",
                class_="in-heat dark" if strength > 0.55 else "in-heat",
            )
            body.append(
                svg.tag("g", svg.tag("title", svg.escape(title)) + box + label, class_="pair", data_a=i, data_b=j, tabindex=0)
            )
    picture = svg.picture(max(width, 360), top + size * len(shown) + 6, body, "disagreement between cells")
    varied = np.flatnonzero((rate.min(axis=0) < 1) & (rate.max(axis=0) > 0))
    hopeless = np.flatnonzero(rates_KN.max(axis=0) == 0)
    data = {
        "cells": [c.label for c in shown],
        "runs": runs,
        "images": varied.tolist(),
        "right": np.rint(rate[:, varied] * np.array(runs)[:, None]).astype(int).tolist(),
    }
    listing = f" ({', '.join(map(str, hopeless[:40]))}{' …' if len(hopeless) > 40 else ''})" if len(hopeless) else ""
    more = f" The best {HEATMAP} of {len(cells)} cells are shown." if len(cells) > HEATMAP else ""
    note = (
        f"Percent of the {images:,} test images on which a run of one cell and a run of the other disagree; on the diagonal two seeds of "
        f"one cell. A pair that is no darker than its diagonal differs by seed only. {words.count(len(hopeless), 'image')} no run gets "
        f"right{listing}. Choose a square to list the images that flip between the two cells.{more}"
    )
    return Figure("disagreement", "On which images do cells disagree?", note, [picture], rows, "wide natural"), data
