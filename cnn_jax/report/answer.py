"""What a sweep says, in sentences: the same in the terminal and at the top of the page."""

from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.report import words

SIGNIFICANT = 1 - stats.LEVEL


def headline(analysis: stats.Analysis) -> str:
    """The answer in one sentence, with its uncertainty."""
    metric, best = words.METRICS[analysis.metric], analysis.best
    if best is None:
        return "No run has finished, so there is nothing to say yet."
    if len(analysis.cells) == 1:
        return (
            f"{best.label} reaches {words.interval(analysis.interval(best))} {metric}, {words.count(analysis.seeds, 'seed')}."
        )
    if not analysis.means.df and not any(t.p <= SIGNIFICANT for t in analysis.effects.terms):
        return (
            f"With one seed per cell, no difference in {metric} can be told from the luck of the seed: add seeds (--seeds=3)."
        )
    main = [t for t in analysis.effects.terms if len(t.factors) == 1]
    found = sorted((t for t in main if t.p <= SIGNIFICANT), key=lambda t: -abs(t.span.estimate.value))
    rest = [t.name for t in main if t.p > SIGNIFICANT]
    if found:
        parts = [f"{t.name} ({_step(t, first=i == 0)})" for i, t in enumerate(found)]
        tail = f"; no effect of {_and(rest, 'or')} was found" if rest else ""
        return f"{_capital(metric)} depends on {_and(parts)}{tail}."
    if main:
        return f"No effect of {_and([t.name for t in main], 'or')} on {metric} was found{_limit(analysis)}."
    if len(analysis.ties) < len(analysis.cells) - 1:
        return f"{best.label} has the best {metric}, {words.interval(analysis.interval(best))}."
    return f"No difference in {metric} between the {len(analysis.cells)} cells was found{_limit(analysis)}."


def details(analysis: stats.Analysis) -> list[str]:
    """The sentences below the headline: the best cells and their test accuracy, what depends on what, luck, noise."""
    best = analysis.best
    if best is None:
        return []
    out = noise_floor(analysis)
    for term in analysis.effects.terms:
        if len(term.factors) == 2 and term.p <= SIGNIFICANT:
            change = f"{words.points(term.span.estimate.value)} points, {_range(term.span.estimate)}"
            out.append(
                f"What {term.factors[0]} does depends on {term.factors[1]} ({term.span.b} against {term.span.a}: {change})."
            )
    if len(analysis.cells) > 1:
        out.append(_best(analysis, best))
    out.append(_test(analysis, best))
    if analysis.curse == analysis.curse and len(analysis.cells) > 1:
        look = f"look {words.spread(analysis.curse)} points too good by luck alone"
        out.append(f"Winner's curse: the best of {len(analysis.cells)} equal cells would {look}.")
    return out


def noise_floor(analysis: stats.Analysis) -> list[str]:
    """What the seed alone changes, and what can be resolved against it."""
    out = []
    if analysis.noise:
        n = analysis.noise
        out.append(
            f"Noise floor: two runs that differ only by seed disagree on {100 * n.flips:.2f} % of the {n.images:,} test "
            f"images; their test accuracy varies by {words.spread(n.sd)} points (standard deviation, {n.runs} runs)."
        )
    if analysis.resolution == analysis.resolution:
        out.append(
            f"{words.count(analysis.seeds, 'seed')} per cell find a difference of {words.spread(analysis.resolution)} points "
            f"in {words.METRICS[analysis.metric]} between two given cells with probability {stats.POWER:g}."
        )
    return out


def cautions(analysis: stats.Analysis, missing: int, damaged: Sequence[str]) -> list[str]:
    """What a reader must know before believing the rest."""
    design, out = analysis.design, []
    if analysis.best and not analysis.validated:
        out.append(
            "Nothing was held out for validation, so selection without the test set was not possible: the best cell was picked "
            "on the test set and its accuracy is too good."
        )
    for status, meaning in (("diverged", "diverged"), ("failed", "failed")):
        if number := analysis.count(status):
            out.append(f"{words.count(number, 'trial')} {meaning}: counted in their cells, absent from their means.")
    if missing:
        out.append(f"{words.count(missing, 'planned trial')} did not run yet: the same command runs what is missing.")
    if analysis.effects.terms and analysis.effects.approximate:
        out.append("The design is not a complete crossing with equal runs in every cell: effects are approximate.")
    for name, factor in design.aliases.items():
        out.append(f"{name} changes together with {factor}: their effects cannot be told apart.")
    if damaged:
        out.append(f"{words.count(len(damaged), 'damaged line')} left out: {', '.join(damaged[:3])}.")
    return out


def _best(analysis: stats.Analysis, best: stats.Cell) -> str:
    others = len(analysis.cells) - 1
    where = "validation" if analysis.validated else "the test set"
    value = words.interval(analysis.interval(best))
    ties = len(analysis.ties)
    if ties == 0:
        tail = f"it is better than {'the other cell' if others == 1 else f'each of the {others} others'}"
    elif others == 1:
        tail = "the other cell cannot be told from it"
    else:
        some = "none of the {} other cells can" if ties == others else f"{ties} of the {{}} other cells cannot"
        tail = f"{some.format(others)} be told from it"
    return f"Best on {where}: {best.label}, {value}, {words.count(len(best.values(analysis.metric)), 'seed')}; {tail}."


def _test(analysis: stats.Analysis, best: stats.Cell) -> str:
    e = analysis.interval(best, "test_accuracy")
    note = "" if analysis.validated else " (picked on it)"
    return f"Test accuracy of {best.label}: {words.interval(e)}, {words.count(e.n, 'seed')}{note}."


def _step(term: stats.Term, *, first: bool) -> str:
    e = term.span.estimate
    return f"{term.span.b} instead of {term.span.a}: {words.points(e.value)} points, {_range(e, named=first)}"


def _range(e: stats.Estimate, *, named: bool = True) -> str:
    return f"{'95 % interval ' if named else ''}{words.points(e.low)} to {words.points(e.high)}"


def _limit(analysis: stats.Analysis) -> str:
    limit = analysis.resolution
    return (
        f"; differences below {words.spread(limit)} points between two cells would mostly go unseen" if limit == limit else ""
    )


def _and(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
