"""Cells against the best, against their cost, and against the noise."""

import math

from cnn_jax import stats
from cnn_jax.report import svg, words
from cnn_jax.report.plots.figure import Figure, Row, clip, levels_of

FOREST = 40  # cells drawn against the best


def against_best(analysis: stats.Analysis) -> Figure | None:
    """Every cell's difference to the best one with its interval; those not distinguished from it are highlighted."""
    shown = analysis.comparisons[:FOREST]
    if not shown or analysis.best is None:
        return None
    rows: list[Row] = [
        {
            "against": c.against.label, "cell": c.cell.label, "difference": c.difference.value, "low": c.simultaneous.low,
            "high": c.simultaneous.high, "p_better": c.better, "p_corrected": c.p, "runs": c.difference.n,
        }
        for c in analysis.comparisons
    ]  # fmt: skip
    longest = min(50, max(len(c.cell.label) for c in shown))
    # On a phone the names are above the intervals: beside them they would leave no room.
    wide, narrow = (_forest(analysis, width, left) for width, left in ((760, 12 + 7 * longest), (360, 0)))
    picture = _class(wide, "only-wide") + _class(narrow, "only-narrow")
    more = f" The nearest {FOREST} of {len(rows)} cells are drawn." if len(rows) > FOREST else ""
    note = (
        f"Difference of {words.units(analysis).noun} to {analysis.best.label} with simultaneous 95 % intervals for "
        f"{analysis.population}. Green: with "
        f"{analysis.best.label} a 95 % confidence set for the best cell. Grey: worse.{more}"
    )
    return Figure("against_best", "Which cells differ from the best?", note, [picture], rows, "wide natural")


def _class(picture: str, name: str) -> str:
    return picture.replace("<svg ", f'<svg class="{name}" ', 1)


def _forest(analysis: stats.Analysis, width: float, left: float) -> str:
    """An interval per comparison, with the cell's name to its left, or above it if there is nothing to its left."""
    shown = analysis.comparisons[:FOREST]
    pitch = 22 if left else 38
    height = 44 + pitch * len(shown)
    up = -analysis.measured.sign  # differences say by how much a cell is worse
    ends = [up * v for c in shown for v in (c.simultaneous.low, c.simultaneous.high, c.difference.value)]
    units = words.units(analysis)
    x = svg.Scale.around([0.0, *ends], max(left, 24), width - 26)
    title = f"{'points' if units.points else units.noun} below or above the best cell"
    body = svg.bottom_axis(x, 10, height - 30, units.difference_tick, title, 7)
    body.append(svg.tag("line", class_="zero", x1=x(0), x2=x(0), y1=10, y2=height - 30))
    for i, c in enumerate(shown):
        y = (24 if left else 38) + pitch * i
        d = c.simultaneous
        bounds = sorted((up * d.low, up * d.high))
        low, high = (x(bounds[0]), x(bounds[1])) if d.known else (math.nan, math.nan)
        span = f"{units.difference(bounds[0])} to {units.difference(bounds[1])}"
        versus = "" if c.against is analysis.best else f" against {c.against.label}"
        title = (
            f"{c.cell.label}{versus}: {units.difference(up * d.value)}{units.points} ({span}), corrected p {words.p_value(c.p)}"
        )
        colour = "c7" if c.distinguishable else "c2"
        mark = svg.tag("title", svg.escape(title)) + svg.whisker(y, low, x(up * d.value), high, colour, across=True)
        name = clip(c.cell.label, 50)
        if left:
            body.append(svg.text(left - 10, y + 4, name, anchor="end", class_="tick strong"))
        else:
            body.append(svg.text(6, y - 13, name, class_="halo"))
        body.append(svg.tag("g", mark))
    return svg.picture(width, height + 10, body, "difference of each cell to the best")


def cost(analysis: stats.Analysis) -> Figure | None:
    """Accuracy against what it costs: parameters, MACs, training time; with the Pareto front."""
    metric, units = analysis.metric, words.units(analysis)
    titles = {"params": "parameters", "macs": "multiply-accumulates per image", "train_seconds": "training time of a run, s"}
    rows: list[Row] = []
    for cell in analysis.cells:
        e = analysis.interval(cell)
        facts = {"params": cell.fact("params"), "macs": cell.fact("macs"), "train_seconds": cell.mean("train_seconds")}
        row = levels_of(cell) | facts | {"receptive_field": cell.fact("receptive_field")}
        rows.append({"cell": cell.label} | row | {metric: e.value, "low": e.low, "high": e.high, "runs": e.n})
    pictures = []
    for key, title in titles.items():
        known = [r for r in rows if r[key] is not None and r[key] > 0]
        if not known:
            continue
        costs = [r[key] for r in known]
        if len(set(costs)) < 2:  # one column of marks: accuracy against nothing
            continue
        few = len(known) <= 60
        y = svg.Scale.around([v for r in known for v in ((r["low"], r["high"], r[metric]) if few else (r[metric],))], 250, 34)
        x = svg.Scale.around(costs, 54, 345, log=max(costs) / min(costs) > 5)
        body = svg.left_axis(y, 44, 350, units.tick, units.axis)
        body += svg.bottom_axis(x, 34, 250, words.short, title, 4)
        front = pareto(known, key, metric, analysis.measured.sign)
        steps = [(x(front[0][key]), y(front[0][metric]))]
        for r in front[1:]:
            steps += [(x(r[key]), steps[-1][1]), (x(r[key]), y(r[metric]))]
        body.append(svg.line(steps, "c1"))
        if few:
            for r in known:
                label = f"{r['cell']}: {units.value(r[metric])}, {words.short(r[key])} {title}"
                label += f", receptive field {r['receptive_field']}"
                low, high = (y(r["low"]), y(r["high"])) if math.isfinite(r["low"]) else (math.nan, math.nan)
                mark = svg.whisker(x(r[key]), low, y(r[metric]), high, "c1" if r in front else "c0")
                body.append(svg.tag("g", svg.tag("title", svg.escape(label)) + mark))
        else:
            body.append(svg.dots([(x(r[key]), y(r[metric])) for r in known], "c0"))
            body.append(svg.dots([(x(r[key]), y(r[metric])) for r in front], "c1"))
        pictures.append(svg.picture(360, 292, body, f"{units.noun} against {title}"))
    note = (
        f"A diamond is a cell with its 95 % interval for {analysis.population}. The orange line is the Pareto front: "
        "no cell has better accuracy for less. If a factor also changes these costs, they may cause its effect."
    )
    return Figure("cost", "What does accuracy cost?", note, pictures, rows) if pictures else None


def pareto(rows: list[Row], cost: str, metric: str, sign: float = 1.0) -> list[Row]:
    """The rows that no other row beats at the same or lower cost, cheapest first."""
    front: list[Row] = []
    for r in sorted(rows, key=lambda r: (r[cost], -sign * r[metric])):
        if not front or sign * r[metric] > sign * front[-1][metric]:
            front.append(r)
    return front


def noise_floor(analysis: stats.Analysis) -> Figure | None:
    """The smallest difference that a number of seeds resolves."""
    if not analysis.sd > 0 or len(analysis.cells) < 2:
        return None
    many = [2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30]
    rows: list[Row] = [{"seeds": n, "difference": analysis.detectable(n)} for n in many]
    now = next((r for r in rows if r["seeds"] == analysis.seeds), None)
    top = max(rows[1]["difference"], now["difference"] if now else 0) * 1.3
    x, y = svg.Scale(1.8, 33, 44, 345, log=True), svg.Scale(0, top, 250, 34)
    units, run = words.units(analysis), "seed" if analysis.measured.of_images else "run"
    title = f"smallest difference found{',' if units.points else ''}{units.points}"
    body = svg.left_axis(y, 44, 350, units.tick, title)
    for n in (2, 3, 5, 10, 20, 30):
        body.append(svg.text(x(n), 268, n, anchor="middle", class_="tick"))
    body.append(svg.text(197, 288, f"{run}s per cell", anchor="middle", class_="axis"))
    drawn = [r for r in rows if r["difference"] <= top]
    points = [(x(r["seeds"]), y(r["difference"])) for r in drawn]
    body.append(svg.line(points, "c0"))
    body.append(svg.dots(points, "c0", [f"{r['seeds']} {run}s: {units.spread(r['difference'])}{units.points}" for r in drawn]))
    if now:
        body.append(svg.tag("line", class_="zero", x1=x(now["seeds"]), x2=x(now["seeds"]), y1=34, y2=250))
        body.append(svg.text(x(now["seeds"]) + 5, 46, "this sweep", class_="tick"))
    note = (
        f"The difference in {units.noun} between two cells that such a report claims with probability "
        f"{stats.POWER:g}, corrected for all its claims, from the spread between {run}s "
        f"({units.spread(analysis.sd)}{units.points})"
        f"{' and between images, which more seeds do not lower' if analysis.means.images else ''}."
    )
    return Figure(
        "noise_floor",
        "What could this sweep have detected?",
        note,
        [svg.picture(360, 296, body, "smallest difference by seeds")],
        rows,
    )
