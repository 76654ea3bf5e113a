"""Accuracy by factor, and how factors depend on each other."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from cnn_jax import stats
from cnn_jax.report import svg, words
from cnn_jax.report.plots.figure import DOTS_WITH_TITLES, Figure, Row, colour, level_ticks, run_title, within

LEVELS = 12  # of a factor with a column each; more are a scatter plot


def by_factor(analysis: stats.Analysis) -> Figure | None:
    """A panel per factor: every run as a dot, each level's marginal mean with its interval. None for fewer than two runs."""
    metric, units = analysis.metric, words.units(analysis)
    runs = sum(len(c.values(metric)) for c in analysis.cells)
    if runs < 2:
        return None
    factors = analysis.design.factors or {"model": (None,)}
    few = {factor: levels for factor, levels in factors.items() if len(levels) <= LEVELS}
    means = {(factor, level): level_mean(analysis, factor, level) for factor, levels in few.items() for level in levels}
    y = _shared_scale(analysis, means.values(), 258, 34)
    pictures, rows = [], []
    for factor, levels in factors.items():
        if factor not in few:
            panel, some = _scatter(analysis, factor, y, named=runs <= DOTS_WITH_TITLES)
            pictures.append(panel)
            rows += some
            continue
        body = svg.left_axis(y, 44, 350, units.tick, units.axis)
        for i, level in enumerate(levels):
            x = 44 + 306 * (i + 0.5) / len(levels)
            cells = [c for c in analysis.cells if factor not in c.levels or c.levels[factor] == level]
            points, titles = [], []
            for j, cell in enumerate(cells):
                # Cells are side by side within a level, to show whether its spread is between or within cells.
                at = x + min(200 / len(levels), 90) * ((j + 0.5) / len(cells) - 0.5) * 0.8
                for run, value in zip(cell.runs(metric), cell.values(metric), strict=True):
                    points.append((round(at, 1), y(value)))
                    titles.append(run_title(cell, run, units.value(value)))
                    seed = run["config"]["seed"]
                    rows.append({"factor": factor, "level": stats.text(level), "cell": cell.label, "seed": seed, metric: value})
            body.append(svg.dots(points, colour(i), titles if runs <= DOTS_WITH_TITLES else None))
            name = stats.text(level) if factor in analysis.design.factors else ""
            e = means[factor, level]
            if e:
                at = x + min(200 / len(levels), 90) * 0.5
                label = svg.tag("title", svg.escape(f"mean of {factor} {name}: {units.interval(e)}, {e.n} runs"))
                low, high = (y(e.low), y(e.high)) if e.known else (math.nan, math.nan)
                body.append(svg.tag("g", label + svg.whisker(round(at, 1), low, y(e.value), high, "ink")))
            if not points:
                body.append(svg.text(x, 150, "no run", anchor="middle", class_="tick"))
        known = factor in analysis.design.factors
        xs = [44 + 306 * (i + 0.5) / len(levels) for i in range(len(levels))]
        names, more = level_ticks([stats.text(level) for level in levels] if known else [], xs if known else [], 276)
        body += [*names, svg.text(197, 296 + more, factor if known else "", anchor="middle", class_="axis")]
        pictures.append(svg.picture(360, 304 + more, body, f"{units.noun} by {factor}"))
    note = (
        "Every dot is a run, dots in one column are the runs of one cell; a level has the same colour in all pictures. The "
        "diamond is the level's mean over all cells with its 95 % interval"
        f" for {analysis.population}."
    )
    title = "Accuracy by factor" if analysis.measured.of_images else f"{units.noun} by factor"
    return Figure("accuracy_by_factor", title, note, pictures, rows)


def level_mean(analysis: stats.Analysis, factor: str, level: stats.Level) -> stats.Estimate | None:
    """A level's mean over all cells, from the effects; None without a finished run."""
    for term in analysis.effects.terms:
        found = dict(term.levels).get(stats.text(level)) if term.factors == (factor,) else None
        if found and len(term.levels) < len(analysis.cells):
            return within(found, analysis.measured)
    return _cell_mean(analysis, {factor: level} if factor in analysis.design.factors else {})


def _shared_scale(analysis: stats.Analysis, means: Iterable[stats.Estimate | None], start: float, end: float) -> svg.Scale:
    """A scale that shows every run and every interval."""
    runs = [v for c in analysis.cells for v in c.values(analysis.metric)]
    return svg.Scale.around([*runs, *(v for e in means if e for v in (e.low, e.high))], start, end)


def _scatter(analysis: stats.Analysis, factor: str, y: svg.Scale, *, named: bool) -> tuple[str, list[Row]]:
    """A factor of very many levels: numbers along x, logarithmic if they span decades; words in order."""
    levels, units = analysis.design.factors[factor], words.units(analysis)
    number = {v: float(v) if stats.numeric(levels) and not isinstance(v, tuple) else float(i) for i, v in enumerate(levels)}
    low, high = min(number.values()), max(number.values())
    x = svg.Scale.around(number.values(), 50, 345, log=low > 0 and high / low > 30)
    body = svg.left_axis(y, 44, 350, units.tick, units.axis)
    body += svg.bottom_axis(x, 34, 258, lambda v: f"{v:g}", factor)
    points, titles, rows = [], [], []
    for cell in analysis.cells:
        for run, value in zip(cell.runs(analysis.metric), cell.values(analysis.metric), strict=True):
            points.append((x(number[cell.levels[factor]]), y(value)))
            titles.append(run_title(cell, run, units.value(value)))
            seed = run["config"]["seed"]
            level = stats.text(cell.levels[factor])
            rows.append({"factor": factor, "level": level, "cell": cell.label, "seed": seed, analysis.metric: value})
    body.append(svg.dots(points, "c0", titles if named else None))
    return svg.picture(360, 304, body, f"{units.noun} by {factor}"), rows


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
        lines = [sum(estimates[u, v] is not None for u in factors[a]) for v in factors[b]]
        if sum(known > 1 for known in lines) < 2:  # no two lines to compare
            continue
        y = svg.Scale.around([x for e in estimates.values() if e for x in (e.low, e.high, e.value)], 250, 58)
        units = words.units(analysis)
        body = svg.left_axis(y, 44, 350, units.tick, units.axis)
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
                    "title", svg.escape(f"{a} {stats.text(u)}, {b} {stats.text(v)}: {units.interval(e)}, {e.n} runs")
                )
                body.append(svg.tag("g", title + svg.whisker(x, low, y(e.value), high, colour(i))))
                value = {"mean": e.value, "low": e.low, "high": e.high, "runs": e.n}
                rows.append({"x": a, "x_level": stats.text(u), "line": b, "line_level": stats.text(v), **value})
            body.append(svg.line(line, colour(i)))
        body += _legend(f"{b}:", [stats.text(v) for v in factors[b]], 14)
        xs = [44 + width * (j + 0.5) for j in range(len(factors[a]))]
        names, more = level_ticks([stats.text(u) for u in factors[a]], xs, 268)
        body += [*names, svg.text(197, 290 + more, a, anchor="middle", class_="axis")]
        pictures.append(svg.picture(360, 300 + more, body, f"interaction of {a} and {b}"))
    if not pictures:
        return None
    note = f"Mean {words.units(analysis).axis}, with 95 % intervals. Parallel lines: the two factors act independently."
    return Figure("interactions", "Do factors depend on each other?", note, pictures, rows)


def _cell_mean(analysis: stats.Analysis, levels: dict[str, stats.Level]) -> stats.Estimate | None:
    chosen = [all(c.levels[k] == v for k, v in levels.items()) for c in analysis.cells]
    if sum(chosen) == 1:
        return analysis.interval(analysis.cells[chosen.index(True)])
    return within(analysis.means.contrast(np.array(chosen) / sum(chosen)), analysis.measured) if any(chosen) else None


def _legend(title: str, names: Sequence[str], y: float) -> list[str]:
    out, x = [svg.text(4, y, title, class_="axis")], 12 + 7.6 * len(title)
    for i, name in enumerate(names):
        if x + 22 + 7 * len(name) > 356:
            x, y = 12.0, y + 16
        out.append(svg.line([(x, y - 4), (x + 16, y - 4)], colour(i)))
        out.append(svg.text(x + 20, y, name, class_="tick strong"))
        x += 34 + 7 * len(name)
    return out
