"""Measures of the networks of a sweep by factor, with intervals over seeds: pictures, a table, a file."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import stats
from cnn_jax.analysis import values
from cnn_jax.analysis.lines import Effect, Line, summarize
from cnn_jax.report import page_tables, svg, words
from cnn_jax.report.plots.figure import clip, colour, level_ticks

LINES = 300  # numbers of layers that are compared at most
CLAIMS = 6  # in a sentence
# Titles of axes; other measures are titled by their names.
_TITLES = {
    "probe": "accuracy of a linear probe", "probe_gain": "accuracy of the last layer's probe, over",
    "edges": "edge score of kernels, R²", "dead": "share of dead channels", "duplicates": "share of duplicate filters",
    "sparsity": "share of outputs that are zero", "field_std": "effective field, SD in pixels",
    "field_share": "effective field, share of theoretical", "used_field": "used field, pixels",
    "used_share": "used field, share of image", "accuracy_in_window": "accuracy inside of a window",
    "cka_pixels": "CKA with the pixels", "cka_last": "CKA with the last layer", "cka_before": "CKA with the untrained network",
    "shift": "same answer after a shift", "position": "position read from images, R²",
    "position_noise": "position read from noise, R²", "border_noise": "distance to border from noise, R²",
    "border_error": "error by distance to the border", "border_blind": "share of border-blind units",
    "padding_aware": "share of padding-aware units", "pruned_25": "accuracy lost without 25 % of filters",
    "pruned_50": "accuracy lost without 50 % of filters", "pruned_50_random": "accuracy lost without random 50 %",
    "alike": "correlation of a filter's best patches", "alike_others": "correlation with other filters' patches",
    "purity": "share of one class in best patches",
}  # fmt: skip
_SHARES = {
    "probe", "dead", "duplicates", "sparsity", "used_share", "accuracy_in_window", "shift", "border_error", "border_blind",
    "padding_aware", "purity", "cka_pixels", "cka_last", "cka_before",
}  # fmt: skip


def titled(name: str) -> str:
    """What an axis of a measure is called: 'probe' -> 'accuracy of a linear probe'."""
    return _TITLES.get(name, clip(name, 40))


def measured(folders: Sequence[Path], records: Sequence[stats.Record], factors: Sequence[str]) -> tuple[list[Line], int]:
    """Summary of the stored values of runs, and the number of runs with values."""
    trials = {record["trial"] for record in records}
    found = [value for folder in folders for value in values.read(folder, trials)]
    names = set(list(dict.fromkeys((v.name.removesuffix("_untrained"), v.layer) for v in found))[:LINES])
    kept = [v for v in found if (v.name.removesuffix("_untrained"), v.layer) in names]
    return summarize(records, kept, factors), len({v.trial for v in kept})


def block(lines: Sequence[Line], networks: int, runs: int, analysis: stats.Analysis) -> str:
    """The markup; '' without values.

    Args:
      lines: of the measures.
      networks: that have values.
      runs: that the report has.
      analysis: of the sweep.
    """
    if not lines:
        return ""
    factors = {name: levels for name, levels in analysis.design.factors.items() if len(levels) <= svg.COLOURS}
    claimed = {f: sum(line.effects[f].claimed for line in lines if f in line.effects) for f in factors}
    parts: list[str] = []
    for factor, levels in factors.items():
        if drawn := panels(lines, factor, levels):
            opened = " open" if factor == max(claimed, key=lambda f: claimed[f]) else ""
            summary = svg.tag("summary", svg.escape(f"By {factor}: {words.count(len(drawn), 'measure')}"))
            boxes = "".join(svg.tag("div", panel) for panel in drawn)
            parts.append(f'<details class="as-it-is"{opened}>{summary}<div class="panels measures">{boxes}</div></details>')
    note = (
        f"Numbers of {words.count(networks, 'network')}{f' of {runs:,}' if networks < runs else ''}, a mark per level: the "
        "mean over all cells with its 95 % interval for new seeds. What the numbers mean: docs/measures.md."
    )
    return (
        svg.tag("p", svg.escape(note), class_="note")
        + svg.tag("p", svg.escape(claims(lines)), class_="finding")
        + "".join(parts)
        + _table(lines, list(factors))
        + page_tables.download("measures_by_factor", rows(lines))
    )


def claims(lines: Sequence[Line]) -> str:
    """The effects that are claimed, clearest first."""
    found = [(e.p, line, factor, e) for line in lines for factor, e in line.effects.items() if e.claimed]
    if not found:
        tested = sum(len(line.effects) for line in lines)
        return f"No factor has a claimed effect on any of these numbers; {tested} were tested." if tested else ""
    shown = []
    for _, line, factor, effect in sorted(found, key=lambda one: one[0])[:CLAIMS]:
        span = effect.term.span
        shown.append(f"{line.name} of {line.layer} by {factor} ({span.b} against {span.a}: {difference(span.simultaneous)})")
    more = f"; and {len(found) - CLAIMS} more" if len(found) > CLAIMS else ""
    return f"Effects that hold at 5 % for all numbers together (Holm): {'; '.join(shown)}{more}."


def panels(lines: Sequence[Line], factor: str, levels: Sequence[stats.Level], names: Sequence[str] = ()) -> list[str]:
    """A picture per measure that the factor is tested on: layers along x, a colour per level. `names`: only these measures."""
    by_name: dict[str, list[tuple[str, Effect]]] = {}
    for line in lines:
        if factor in line.effects and (not names or line.name in names):
            by_name.setdefault(line.name, []).append((line.layer, line.effects[factor]))
    return [_panel(name, found, factor, [stats.text(level) for level in levels]) for name, found in by_name.items()]


def _panel(name: str, found: Sequence[tuple[str, Effect]], factor: str, levels: Sequence[str]) -> str:
    marks = [[(level, _cut(name, e)) for level, e in effect.term.levels] for _, effect in found]
    every = [x for layer in marks for _, e in layer for x in ((e.low, e.high, e.value) if e.known else (e.value,))]
    title = titled(name)
    y = svg.Scale.around(every, 208, 54)
    body = svg.left_axis(y, 44, 290, number)
    body.append(svg.text(2, 14, title, class_="axis"))
    x = 4.0
    for i, level in enumerate(levels):
        body.append(svg.line([(x, 31), (x + 12, 31)], colour(i)))
        body.append(svg.text(x + 16, 35, clip(level, 12), class_="tick strong"))
        x += 26 + 7 * len(clip(level, 12))
    width = 246 / len(found)
    for j, ((layer, effect), layer_marks) in enumerate(zip(found, marks, strict=True)):
        for level, e in layer_marks:
            i = levels.index(level) if level in levels else 0
            at = round(44 + width * (j + 0.5) + (i - (len(levels) - 1) / 2) * min(12, width / (len(levels) + 1)), 1)
            low, high = (y(e.low), y(e.high)) if e.known else (math.nan, math.nan)
            span = f" ({number(e.low)} to {number(e.high)})" if e.known else ""
            star = "; the effect is claimed" if effect.claimed else ""
            says = f"{name} of {layer}, {factor} {level}: {number(e.value)}{span}, {words.count(e.n, 'run')}{star}"
            body.append(svg.tag("g", svg.tag("title", svg.escape(says)) + svg.whisker(at, low, y(e.value), high, colour(i))))
    layers = [layer + ("*" if effect.claimed else "") for layer, effect in found]
    ticks, more = level_ticks(layers, [44 + width * (j + 0.5) for j in range(len(found))], 226, room=34)
    return svg.picture(300, 236 + more, [*body, *ticks], f"{title} by {factor}")


def _cut(name: str, e: stats.Estimate) -> stats.Estimate:
    """The interval of a share cut to 0 and 1."""
    return dataclasses.replace(e, low=max(0.0, e.low), high=min(1.0, e.high)) if e.known and name in _SHARES else e


def number(value: float) -> str:
    """'0.63', '−0.05', '6.9'."""
    text = f"{value:.3g}" if abs(value) >= 0.0005 else "0"
    return text.replace("-", "−")


def difference(e: stats.Estimate) -> str:
    """'+0.029, 0.018 to 0.040'."""
    sign = "+" if e.value > 0 else ""
    return f"{sign}{number(e.value)}" + (f", {number(e.low)} to {number(e.high)}" if e.known else "")


def _table(lines: Sequence[Line], factors: Sequence[str]) -> str:
    head = ["measure", "layer", "mean (95 %)", "over untrained", *(part for f in factors for part in (f, "p"))]
    body: list[list[page_tables.Cell]] = []
    classes = []
    for line in lines:
        mean = _cut(line.name, line.mean)
        span = f" ({number(mean.low)} to {number(mean.high)})" if mean.known else ""
        row: list[page_tables.Cell] = [line.name, line.layer, (number(mean.value) + span, mean.value)]
        row.append((difference(line.gained), line.gained.value) if line.gained else "–")
        for factor in factors:
            effect = line.effects.get(factor)
            e = effect.term.span if effect else None
            row.append(f"{e.b} − {e.a}: {difference(e.simultaneous)}" if e else "–")
            row.append((words.p_value(effect.p), effect.p) if effect else "–")
        body.append(row)
        classes.append("marked" if any(e.claimed for e in line.effects.values()) else "")
    shown = page_tables.table(head, body, sortable=True, classes=classes, label="Measures")
    return f"<details class='as-it-is'><summary>All {words.count(len(lines), 'number')}</summary>{shown}</details>"


def rows(lines: Sequence[Line]) -> list[dict[str, object]]:
    """A row per number and its subject: all cells, over the untrained network, a level, the clearest difference."""
    out: list[dict[str, object]] = []
    for line in lines:
        named: list[tuple[str, stats.Estimate, float | None]] = [("all cells", line.mean, None)]
        named += [("over untrained", line.gained, None)] if line.gained else []
        for factor, effect in line.effects.items():
            span = effect.term.span
            named += [(f"{factor}={level}", e, None) for level, e in effect.term.levels]
            named.append((f"{factor} {span.b} - {span.a}", span.simultaneous, effect.p))
        out += [
            {
                "measure": line.name,
                "layer": line.layer,
                "of": of,
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "runs": e.n,
                "p": p,
            }
            for of, e, p in named
        ]
    return out
