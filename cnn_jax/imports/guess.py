"""Selection of the columns for metric, factors and seed: given by the user, or else guessed and reported."""

import dataclasses
import math
import re
from collections.abc import Sequence

from cnn_jax.errors import UsageError
from cnn_jax.imports.trackers import Column, Export, listed
from cnn_jax.imports.wanted import Wanted

# Words in names of metrics; earlier groups have priority.
_ACCURACY = re.compile(r"acc(uracy)?($|[^a-z])|top[-_]?[15]($|\D)", re.I)
_SHARE = re.compile(r"(^|[^a-z])(f1|auc|auroc|precision|recall|iou|miou|dice|map)($|[^a-z])", re.I)
_LOWER = re.compile(
    r"(^|[^a-z])(loss|error|err|perplexity|ppl|rmse|mse|mae|mape|nll|bpc|bpd|wer|cer|fid|regret|latency|time|seconds|cost)($|[^a-z])",
    re.I,
)
_HELD_OUT = (re.compile(r"val|valid|dev|eval", re.I), re.compile(r"test", re.I))
_SEED = re.compile(r"(^|[^a-z])(seed|random_?state|rng|replicate|repeat|repetition)s?($|[^a-z])|seed$|^seed", re.I)
_UNSTATED = "(guessed: name it with --metric if that is wrong)"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The columns to report on.

    Attributes:
        metric: Column of the metric.
        factors: Columns that define the cells.
        seed: Column that distinguishes the runs of a cell; None if there is none.
        lower_is_better: Whether a lower mean is better.
        said: A sentence per decision.
    """

    metric: Column
    factors: tuple[Column, ...]
    seed: Column | None
    lower_is_better: bool
    said: tuple[str, ...]


def choose(export: Export, wanted: Wanted) -> Choice:
    """Select the requested columns and guess the others.

    Raises:
        UsageError: A requested column is not in the file, or no column can be guessed.
    """
    said: list[str] = []
    metric = _metric(export, wanted, said)
    seed = _seed(export, wanted, metric, said)
    factors = _factors(export, wanted, metric, seed, said)
    lower = _direction(export, wanted, metric, said)
    return Choice(metric, factors, seed, lower, tuple(said))


def find(export: Export, flag: str, name: str) -> Column:
    """Return the column with this name, in full or without prefix, or the only one whose name ends in it after '/' or '.'.

    Raises:
        UsageError: No or several columns match; lists the columns of the file.
    """
    by_full = [c for c in export.columns if c.name == name]
    by_short = [c for c in export.columns if c.short == name]
    by_end = [c for c in export.columns if re.split(r"[./]", c.short)[-1] == name]
    for found in (by_full, by_short, by_end):
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"--{flag}: {name!r} may be any of {', '.join(c.name for c in found)}: name one of them in full")
    legal = ", ".join(c.name for c in export.columns)
    raise UsageError(f"--{flag}: {name!r} is not a column of {export.table.path}: must be one of {legal}")


def number(text: str) -> float | None:
    """Parse a cell as a number, including 'nan' and 'inf'; None for other text."""
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(export: Export, column: Column) -> list[float]:
    """Return the finite numbers of a numeric column; [] if it has other text."""
    found = [number(text) for text in export.table.column(column.name) if text]
    return [v for v in found if v is not None and math.isfinite(v)] if None not in found else []


def _metric(export: Export, wanted: Wanted, said: list[str]) -> Column:
    if wanted.metric is not None:
        column = find(export, "metric", wanted.metric)
        texts = export.table.column(column.name)
        if any(text and number(text) is None for text in texts):
            word = next(text for text in texts if text and number(text) is None)
            raise UsageError(f"--metric: column {column.name} holds {word[:40]!r}, which is not a number")
        return column
    usable = [c for c in export.of("metric") or export.of("unknown") if _numbers(export, c)]
    ranked = sorted((c for c in usable if _rank(c) is not None or c.role == "metric"), key=lambda c: _rank(c) or (9, 0))
    if not ranked:
        legal = ", ".join(c.name for c in export.columns)
        raise UsageError(f"--metric: no column of {export.table.path} looks like a result: name one of {legal}")
    said.append(f"Metric: {ranked[0].name} {_UNSTATED}.")
    return ranked[0]


def _rank(column: Column) -> tuple[int, int] | None:
    """Rank accuracies before other scores before losses, each on validation before test data; None for other columns."""
    name = column.short
    kinds = [name == "value", _ACCURACY.search(name), _SHARE.search(name), _LOWER.search(name)]
    kind = next((i for i, found in enumerate(kinds) if found), None)
    if kind is None:
        return None
    train = bool(re.search(r"train", name, re.I))
    part = next((i for i, pattern in enumerate(_HELD_OUT) if pattern.search(name)), 2)
    return kind + 4 * train, part


def _seed(export: Export, wanted: Wanted, metric: Column, said: list[str]) -> Column | None:
    if wanted.seed is not None:
        return find(export, "seed", wanted.seed)
    named = {find(export, "factors", name).name for name in wanted.factors or ()}
    for column in export.of("parameter", "unknown", "metric"):
        if _SEED.search(column.short) and column.name not in named | {metric.name}:
            said.append(f"Seed: {column.name} (guessed from its name: name it with --seed if that is wrong).")
            return column
    said.append("Seed: no column looks like one: rows with the same levels of all factors count as runs of one cell.")
    return None


def _factors(export: Export, wanted: Wanted, metric: Column, seed: Column | None, said: list[str]) -> tuple[Column, ...]:
    taken = {metric.name, *([seed.name] if seed else [])}
    if wanted.factors is not None:
        found = tuple(find(export, "factors", name) for name in wanted.factors)
        for column in found:
            if column.name in taken:
                raise UsageError(f"--factors: {column.name} is the {'metric' if column is metric else 'seed'}")
        if len({c.name for c in found}) < len(found):
            raise UsageError(f"--factors: a column is named twice in {','.join(wanted.factors)}")
        others = [c.name for c in _varied(export, taken | {c.name for c in found}) if c.role == "parameter"]
        if others:
            said.append(f"Averaged over: {listed(others)}, which differ between runs but are not among --factors.")
        return found
    varied = _varied(export, taken)
    if not any(c.role == "parameter" for c in export.columns):
        varied = [c for c in varied if _like_parameter(export, c)]
    labels = [c for c in varied if _is_label(export, c)]
    factors = [c for c in varied if c not in labels]
    if factors:
        said.append(f"Factors: {listed([c.name for c in factors])} (guessed: name them with --factors if that is wrong).")
    else:
        said.append("Factors: no column of parameters has several values: all rows are runs of one cell.")
    unused = [c.name for c in export.columns if c.role in ("parameter", "unknown") and c.name not in taken and c not in factors]
    varying = [n for n in unused if len(set(export.table.column(n))) > 1]
    if varying:
        said.append(f"Not used: {listed(varying)}.")
    return tuple(factors)


def _varied(export: Export, taken: set[str]) -> list[Column]:
    roles = [c for c in export.of("parameter") or export.of("unknown") if c.name not in taken]
    return [c for c in roles if len(set(export.table.column(c.name))) > 1]


def is_result(column: Column) -> bool:
    """Whether the name is that of a measured or counted quantity."""
    return _rank(column) is not None or bool(re.search(r"train|param(eter)?s$|macs|flops|receptive_field", column.short, re.I))


def _like_parameter(export: Export, column: Column) -> bool:
    """Whether a column of a table without prefixes may be a parameter, by its name and values.

    Values of parameters repeat. Fractional numbers that differ in almost every row are measured, except in random search, where
    a parameter is recognized by a common name.
    """
    if is_result(column):
        return False
    texts = [text for text in export.table.column(column.name) if text]
    measured = len(set(texts)) > 0.9 * len(texts) and len(texts) > 4
    fractions = any(v != round(v) for v in _numbers(export, column))
    usual = re.search(
        r"rate|lr|decay|drop|moment|eps|alpha|beta|gamma|lambda|temperature|scale|smooth|warm|clip", column.short, re.I
    )
    return not (measured and fractions) or bool(usual)


def _is_label(export: Export, column: Column) -> bool:
    """Whether a column of text differs in every row, such as paths and names of runs."""
    texts = [text for text in export.table.column(column.name) if text]
    return len(texts) > 4 and len(set(texts)) == len(texts) and any(number(text) is None for text in texts)


def _direction(export: Export, wanted: Wanted, metric: Column, said: list[str]) -> bool:
    if wanted.lower_is_better is not None:
        return wanted.lower_is_better
    if export.table.lower_is_better is not None:
        word = "lower" if export.table.lower_is_better else "higher"
        said.append(f"{metric.name}: {word} is better, as stated by the study.")
        return export.table.lower_is_better
    lower = bool(_LOWER.search(metric.short))
    flag = "--nolower_is_better" if lower else "--lower_is_better"
    said.append(f"{metric.name}: {'lower' if lower else 'higher'} is better (guessed from its name: {flag} if that is wrong).")
    return lower


def is_share(name: str, values: Sequence[float]) -> float | None:
    """Return the divisor, 1 or 100, that converts an accuracy to a fraction of 1; None if it is not an accuracy.

    An accuracy in percent is recognized by its name and a value above 1.
    """
    if not values or min(values) < 0 or not (_ACCURACY.search(name) or _SHARE.search(name)):
        return None
    return 1.0 if max(values) <= 1 else 100.0 if max(values) <= 100 and _ACCURACY.search(name) else None
