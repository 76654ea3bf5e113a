"""The conclusions of a sweep in sentences: the same in the terminal and at the top of the page."""

import dataclasses
from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.report import words
from cnn_jax.trial import DataConfig, TrainConfig, added_defaults

NAMED = 3  # most cells listed by name
_COSTS = {"params": "parameters", "macs": "MACs"}


def headline(analysis: stats.Analysis) -> str:
    """The answer in one sentence, with its uncertainty."""
    units, best = words.units(analysis), analysis.best
    metric = units.noun
    if best is None:
        return "No run has finished: there are no results yet."
    if len(analysis.cells) == 1:
        return (
            f"{best.label} reaches {units.interval(analysis.interval(best))} {metric}, {words.count(analysis.seeds, 'seed')}."
        )
    if analysis.decisions:
        return _decided(analysis, best)
    claimed = [t for t in analysis.effects.terms if t.claimed]
    if not analysis.means.df and not claimed:
        return (
            f"With one {_run(analysis)} per cell, differences in {metric} cannot be distinguished from those between "
            f"{_run(analysis)}s: add {_run(analysis)}s{' (--seeds=3)' if analysis.measured.of_images else ''}."
        )
    if claimed:
        return _effects(analysis, claimed)
    if len(analysis.ties) < len(analysis.cells) - 1:
        return f"{_capital(metric, analysis)} differs between cells, and {best.label} has the best: {_cell(analysis, best)}."
    if main := [t for t in analysis.effects.terms if len(t.factors) == 1]:
        names = words.join([t.name for t in main], "or")
        return f"No effect of {names} on {metric} was found ({_steps(main, units)}){_limit(analysis)}."
    return f"No difference in {metric} between the {len(analysis.cells)} cells was found{_limit(analysis)}."


def _effects(analysis: stats.Analysis, claimed: Sequence[stats.Term]) -> str:
    """The claimed effects, largest first; then those that were not found, with their intervals."""
    units, terms = words.units(analysis), analysis.effects.terms
    metric = units.noun
    together = {name: t for t in claimed if len(t.factors) == 2 for name in t.factors}
    main = sorted((t for t in claimed if len(t.factors) == 1), key=lambda t: -abs(t.span.estimate.value))
    joint = [t for t in claimed if len(t.factors) == 2 and not any(m.name in t.factors for m in main)]
    rest = [t for t in terms if len(t.factors) == 1 and not t.claimed and t.name not in together]
    if len(terms) == 1:
        return _comparison(analysis, main[0])
    said = [f"{_step(t, units)}{', on average' if t.name in together else ''}" for t in main] + [
        _change(t, units) for t in joint
    ]
    names = [t.name for t in main] + [f"{words.join(t.factors)} together" for t in joint]
    said[0] = said[0].replace(f"{units.points}, ", f"{units.points}, 95 % interval ", 1)
    parts = [f"{name} ({step})" for name, step in zip(names, said, strict=True)]
    tail = f"; no effect of {words.join([t.name for t in rest], 'or')} was found ({_steps(rest, units)})" if rest else ""
    where = f" at equal {_COSTS[analysis.design.iso]}" if analysis.design.iso else ""
    return f"{_capital(metric, analysis)} depends on {words.join(parts)}{where}{tail}."


def _comparison(analysis: stats.Analysis, term: stats.Term) -> str:
    """The answer of a sweep of one factor: the better level, by how much, and at what cost."""
    span = term.extremes if excludes_zero(term.extremes) else term.span
    e = span.simultaneous
    units, up = words.units(analysis), e.value >= 0
    low, high = (e.low, e.high) if up else (-e.high, -e.low)
    better, worse = (span.b, span.a) if up != analysis.measured.lower_is_better else (span.a, span.b)
    first, second = words.level(term.name, better), words.level(term.name, worse)
    bounds = f"{units.spread(abs(e.value))}{units.points} of {units.noun} ({units.spread(low)} to {units.spread(high)})"
    equal = f" at equal {_COSTS[analysis.design.iso]}" if analysis.design.iso else ""
    costs = []
    for name, noun in _COSTS.items():
        ratio = cost_ratio(analysis, term.name, better, worse, name)
        if name != analysis.design.iso and ratio is not None and abs(ratio - 1) > 0.05:
            costs.append(f"{ratio:.2g} times the {noun}")
    tail = f"; it has {words.join(costs)}" if costs else ""
    return f"{_capital(first, analysis)} beats {second} by {bounds}{equal}{tail}."


def excludes_zero(contrast: stats.Contrast) -> bool:
    """Whether the report claims this difference."""
    e = contrast.simultaneous
    return e.known and not e.low <= 0 <= e.high


def cost_ratio(analysis: stats.Analysis, factor: str, level: str, against: str, cost: str) -> float | None:
    """Ratio of the `cost` (params or macs) of a level's networks to that of another level's; None if unknown."""
    means = []
    for name in (level, against):
        values = [c.fact(cost) for c in analysis.cells if stats.text(c.levels[factor]) == name]
        known = [v for v in values if v is not None]
        means.append(sum(known) / len(known) if known else 0.0)
    return means[0] / means[1] if all(means) else None


def _decided(analysis: stats.Analysis, best: stats.Cell) -> str:
    """The conclusion of a sweep that added seeds until cells were decided."""
    counts = {v: sum(d.verdict == v for d in analysis.decisions) for v in ("worse", "close", "open")}
    ends = {"worse": "worse", "close": "as good within the difference to resolve", "open": "still open"}
    said = [f"{words.count(n, 'cell')} {'is' if n == 1 else 'are'} {ends[v]}" for v, n in counts.items() if n]
    verdicts = words.join(said)
    return f"{best.label} has the best {words.units(analysis).noun}, {_cell(analysis, best)}: {verdicts}."


def details(analysis: stats.Analysis) -> list[str]:
    """The sentences below the headline: interactions, the best cells, what was held fixed, noise."""
    best = analysis.best
    if best is None:
        return []
    units = words.units(analysis)
    out = [
        f"The effect of {term.factors[0]} depends on {term.factors[1]} ({_change(term, units)})."
        for term in analysis.effects.terms
        if len(term.factors) == 2 and term.claimed
    ]
    if len(analysis.cells) > 1:
        out.append(_best(analysis, best))
    if analysis.measured.of_images:
        out.append(_test(analysis, best))
    out += noise_floor(analysis)
    if analysis.curse == analysis.curse and len(analysis.cells) > 1:
        luck = f"{units.spread(analysis.curse)}{units.points}"
        out.append(f"Winner's curse: by luck alone, the best of {len(analysis.cells)} equal cells would look {luck} better.")
    return out


def held_fixed(analysis: stats.Analysis) -> str:
    """The settings that all cells share."""
    fixed = analysis.design.fixed
    hidden = {"iso", "validation_fraction"} | (set() if fixed.get("optimizer") in ("sgd", "rmsprop") else {"momentum"})
    added = added_defaults(TrainConfig)
    usual = {field.name: field.default for part in (DataConfig, TrainConfig) for field in dataclasses.fields(part)}
    at_default = {name for name, level in fixed.items() if name in usual and level == usual[name]}
    hidden |= {name for name in at_default if name in added or fixed[name] in (0, "none")}
    shown = {name: level for name, level in fixed.items() if level is not None and name not in hidden}
    if not shown:
        return ""
    return f"Held fixed: {', '.join(f'{name} {stats.text(level)}' for name, level in shown.items())}."


def noise_floor(analysis: stats.Analysis) -> list[str]:
    """Variation between seeds, and the smallest difference that can be resolved."""
    out, units = [], words.units(analysis)
    if analysis.noise:
        n = analysis.noise
        out.append(
            f"Noise floor: two runs that differ only by seed disagree on {100 * n.flips:.2f} % of the {n.images:,} test "
            f"images; their test accuracy varies by {words.spread(n.sd)} points (standard deviation, {n.runs} runs)."
        )
    if analysis.smallest == analysis.smallest:
        out.append(
            f"With {words.count(analysis.seeds, _run(analysis))} per cell, this report finds a difference of "
            f"{units.spread(analysis.smallest)}{units.points} in {units.noun} between two cells with probability "
            f"{stats.POWER:g}."
        )
    if len(analysis.cells) > 1 and analysis.means.df:
        together = f"corrected for {words.count(analysis.effects.family, 'claim')}" if analysis.effects.family > 1 else "95 %"
        out.append(f"Intervals of effects are {together} and refer to {analysis.population}.")
    return out


def cautions(analysis: stats.Analysis) -> list[str]:
    """Warnings that qualify the results."""
    design, out = analysis.design, []
    if analysis.best and not analysis.validated and analysis.measured.of_images:
        out.append(
            "No images were held out for validation, so the best cell was selected on the test set and its accuracy is biased "
            "upwards."
        )
    for status in words.UNFINISHED:
        if number := analysis.count(status):
            out.append(f"{words.count(number, 'trial')} {status}: counted in their cells, not in their means.")
    if analysis.effects.terms and analysis.effects.caveat:
        out.append(f"Effects are approximate: {analysis.effects.caveat}.")
    if analysis.decisions:
        out.append("Seeds were added to undecided cells, so intervals other than those of the decisions are approximate.")
    for name, factor in design.aliases.items():
        out.append(f"{name} changes together with {factor}: their effects cannot be separated.")
    return out


def damaged(lines: Sequence[str]) -> list[str]:
    """A sentence on the damaged lines of a folder's records; none without any."""
    return [f"{words.count(len(lines), 'damaged line')} left out: {', '.join(lines[:3])}."] if lines else []


def _best(analysis: stats.Analysis, best: stats.Cell) -> str:
    others, ties = len(analysis.cells) - 1, len(analysis.ties)
    where = "validation" if analysis.validated else "the test set" if analysis.measured.of_images else analysis.measured.noun
    if ties == 0:
        tail = f"it is better than {'the other cell' if others == 1 else f'each of the {others} others'}"
    elif others == 1:
        tail = "the other cell cannot be distinguished from it"
    elif ties == others:
        tail = f"none of the {others} other cells can be distinguished from it"
    elif ties <= NAMED:
        tail = f"the best cell is it or {words.join([c.label for c in analysis.ties], 'or')} (95 % confidence)"
    else:
        tail = f"the best cell is it or one of {ties} of the {others} others (95 % confidence)"
    return f"Best on {where}: {best.label}, {_cell(analysis, best)}, {words.seeds(analysis, best)}; {tail}."


def _cell(analysis: stats.Analysis, cell: stats.Cell) -> str:
    return words.units(analysis).interval(analysis.interval(cell))


def _test(analysis: stats.Analysis, best: stats.Cell) -> str:
    e = analysis.interval(best, "test_accuracy")
    note = "" if analysis.validated else " (selected on it)"
    return f"Test accuracy of {best.label}: {words.units(analysis).interval(e)}, {words.count(e.n, 'seed')}{note}."


def _step(term: stats.Term, units: words.Units) -> str:
    e = term.span.simultaneous
    return f"{term.span.b} instead of {term.span.a}: {units.difference(e.value)}{units.points}, {_range(e, units)}"


def _steps(terms: Sequence[stats.Term], units: words.Units) -> str:
    """The steps of factors, with their names if there are several."""
    return "; ".join(f"{t.name} {_step(t, units)}" if len(terms) > 1 else _step(t, units) for t in terms)


def _change(term: stats.Term, units: words.Units) -> str:
    e = term.span.simultaneous
    return f"{term.span.b} against {term.span.a}: {units.difference(e.value)}{units.points}, {_range(e, units)}"


def _range(e: stats.Estimate, units: words.Units) -> str:
    return f"{units.difference(e.low)} to {units.difference(e.high)}"


def _run(analysis: stats.Analysis) -> str:
    """The repetitions of a cell: seeds or runs."""
    return "seed" if analysis.measured.of_images else "run"


def _limit(analysis: stats.Analysis) -> str:
    limit, units = analysis.smallest, words.units(analysis)
    return (
        f"; differences below {units.spread(limit)}{units.points} between two cells would mostly go undetected"
        if limit == limit
        else ""
    )


def _capital(sentence: str, analysis: stats.Analysis) -> str:
    """Capitalize, unless it may begin with the name of a column."""
    return sentence[0].upper() + sentence[1:] if analysis.measured.of_images else sentence
