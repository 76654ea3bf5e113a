"""Statistics of measures over a sweep: intervals over seeds, contrasts between the levels of factors. No JAX."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax import stats
from cnn_jax.analysis.measures import UNTRAINED
from cnn_jax.analysis.values import Value


@dataclasses.dataclass(frozen=True)
class Effect:
    """Effect of a factor on one measured value.

    Attributes:
      term: the effect, as reported for accuracy.
      p: p-value, Holm-corrected over the effects on all lines and, within the line, over all contrasts and terms.
    """

    term: stats.Term
    p: float

    @property
    def claimed(self) -> bool:
        """Whether the effect is significant at a family-wise level of 5 % over all lines."""
        return self.p <= 1 - stats.LEVEL


@dataclasses.dataclass(frozen=True)
class Line:
    """Summary of one measured value of one layer over a sweep.

    Attributes:
      name: name of the value, given by the measure.
      layer: layer, or another key such as 'shift 1'.
      mean: mean over the cells, with its interval over seeds.
      gained: mean over the cells of the difference to the network before training; None without such a baseline.
      effects: by factor; factors that cannot be tested, because the value is constant or levels lack values, are omitted.
      epoch: epoch of the snapshots; None: the trained parameters.
    """

    name: str
    layer: str
    mean: stats.Estimate
    gained: stats.Estimate | None
    effects: Mapping[str, Effect]
    epoch: int | None = None


def summarize(records: Sequence[stats.Record], values: Sequence[Value], factors: Sequence[str]) -> list[Line]:
    """Compute intervals over seeds and contrasts between levels of factors, with the statistics used for accuracy.

    Args:
      records: records of one data set.
      values: measured values; those of other trials are ignored.
      factors: factors to compare.
    """
    tables: dict[tuple[str, str, int | None], dict[str, float]] = {}
    for v in values:
        if math.isfinite(v.value):
            tables.setdefault((v.name, v.layer, v.epoch), {})[v.trial] = v.value
    lines = []
    for (name, layer, epoch), table in tables.items():
        if name.endswith(UNTRAINED):
            continue
        if not (found := _means(records, table)):
            continue
        whole, cells, means = found
        before = tables.get((name + UNTRAINED, layer, epoch), {})
        gained = _means(records, {trial: value - before[trial] for trial, value in table.items() if trial in before})
        terms = stats.effects(whole, cells, means).terms if factors and np.ptp(means.mean_K) > 0 else ()
        effects = {f: Effect(t, t.p) for f in factors for t in terms if t.factors == (f,)}
        lines.append(Line(name, layer, _average(means), _average(gained[2]) if gained else None, effects, epoch))
    every = [effect.p for line in lines for effect in line.effects.values()]
    corrected = iter(stats.holm(np.array(every)).tolist() if every else ())
    return [
        dataclasses.replace(line, effects={f: Effect(effect.term, next(corrected)) for f, effect in line.effects.items()})
        for line in lines
    ]


_METRIC = "measure"
_ROUNDING = 1e-6


def _means(
    records: Sequence[stats.Record], table: Mapping[str, float]
) -> tuple[stats.Design, list[stats.Cell], stats.Means] | None:
    """Return design, cells with values, and their means; None without values."""
    if not (own := {record["trial"]: table[record["trial"]] for record in records if record["trial"] in table}):
        return None
    distinct = np.unique(list(own.values()))
    if np.ptp(distinct) <= _ROUNDING * np.abs(distinct).max():  # equal by definition, up to rounding
        own, distinct = dict.fromkeys(own, float(distinct[0])), distinct[:1]
    mine = [record | {_METRIC: own.get(record["trial"])} for record in records]
    whole = stats.design(mine)
    cells = [cell for cell in whole.cells if cell.values(_METRIC).size]
    # Widths in pixels and shares of few filters are discrete: equal runs may differ by one rounding step.
    step = float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0
    return whole, cells, stats.Means.of([cell.values(_METRIC) for cell in cells], step)


def _average(means: stats.Means) -> stats.Estimate:
    return means.contrast(np.ones(len(means.mean_K)) / len(means.mean_K))
