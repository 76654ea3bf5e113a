"""Measurements of a sweep for each sentence: numbers with intervals, from records and from the measures of `analysis`."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnn_jax import stats
from cnn_jax.chapter.claims import Number
from cnn_jax.chapter.networks import Networks, label

if TYPE_CHECKING:
    from cnn_jax.analysis.over_seeds import Measured

MEASURES = ("probe", "edges", "sparsity", "shift", "patterns")
SPARSE = 0.5  # minimum share of zeros of sparse activations: the share for inputs with symmetric signs
UNKNOWN = "no network of this sweep can tell"
NONE = stats.Estimate(math.nan, math.nan, math.nan, 0)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Measured values of a trial by measure, then by layer, in order of computation."""

    values: Mapping[str, Mapping[str, float]]

    @property
    def convolutions(self) -> tuple[str, ...]:
        """Names of the layers with units and spatial axes."""
        return tuple(self.values.get("alike", ()))

    @property
    def last(self) -> str:
        """Name of the last layer, the logits."""
        return list(self.values.get("probe", {"": 0.0}))[-1]

    def get(self, name: str, layer: str) -> float:
        """Return a value; nan if unknown."""
        return self.values.get(name, {}).get(layer, math.nan)

    def mean(self, name: str, layers: Sequence[str]) -> float:
        """Compute the mean over layers; nan if any value is unknown."""
        return float(np.mean([self.get(name, layer) for layer in layers])) if layers else math.nan

    def place(self, which: str) -> str:
        """Return the name of the 'first', 'middle' or 'last' convolution; '' without convolutions."""
        names = self.convolutions
        index = {"first": 0, "middle": len(names) // 2, "last": len(names) - 1}[which]
        return names[index] if names else ""


class Evidence:
    """Numbers of a sweep.

    Attributes:
      networks: cells of the sweep.
      layers: values of every measured trial by id.
    """

    def __init__(self, networks: Networks, measured: "Measured"):
        self.networks = networks
        self.layers: dict[str, Layers] = {}
        values: dict[str, dict[str, dict[str, float]]] = {}
        for v in measured.values:
            values.setdefault(v.trial, {}).setdefault(v.name, {})[v.layer] = v.value
        self.layers = {trial: Layers(found) for trial, found in values.items()}

    def values(self, cell: stats.Cell, of: Callable[[Layers], float]) -> np.ndarray:
        """Return a value per measured trial of a cell, without unknown ones."""
        found = np.array([of(self.layers[r["trial"]]) for r in cell.done if r["trial"] in self.layers], float)
        return found[np.isfinite(found)]

    def over(self, cells: Sequence[stats.Cell], of: Callable[[Layers], float]) -> stats.Estimate:
        """Estimate the mean over cells of a value per trial, with the interval for new seeds on the same images."""
        known = [values for cell in cells if (values := self.values(cell, of)).size]
        return contrast(_means(known), np.full(len(known), 1 / len(known))) if known else NONE

    def number(
        self,
        what: str,
        cells: Sequence[stats.Cell],
        terms: Sequence[tuple[str, Callable[[Layers], float]]],
        *,
        share: bool = True,
    ) -> Number:
        """Estimate the first of two terms minus the second, paired by trial; each term has a name."""
        (one, first), (other, second) = terms
        difference = self.over(cells, lambda layers: first(layers) - second(layers))
        if not difference.n:
            return Number(what, NONE, UNKNOWN, share)
        values = [self.over(cells, term).value for term in (first, second)]
        return Number(what, difference, f"{one} {values[0]:.3f}, {other} {values[1]:.3f}", share)

    def places(self, cell: stats.Cell, name: str) -> list[str]:
        """Return the keys of a measure in a cell's networks: layers, or shifts."""
        return list(next((self.layers[r["trial"]].values.get(name, {}) for r in cell.done if r["trial"] in self.layers), {}))

    def interval(self, cell: stats.Cell) -> stats.Estimate:
        """Estimate the mean test accuracy of a cell (0 to 1), with its interval for new seeds and new images."""
        found = contrast(_accuracies([cell]), np.ones(1))
        return dataclasses.replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0)) if found.known else found

    def unpaired(
        self, what: str, pair: tuple[stats.Cell, stats.Cell], of: Callable[[Layers], float], named: tuple[str, str]
    ) -> Number:
        """Estimate the mean of a value over one cell minus that over another."""
        found = [self.values(cell, of) for cell in pair]
        if not all(values.size for values in found):
            return Number(what, NONE, UNKNOWN)
        beside = ", ".join(f"{word} {values.mean():.3f}" for word, values in zip(named, found, strict=True))
        return Number(what, contrast(_means(found), np.array([1.0, -1.0])), beside)

    def accuracy(self, what: str, pairs: Sequence[tuple[stats.Cell, stats.Cell]], missing: str) -> Number:
        """Estimate the mean difference of test accuracy over pairs of cells, for new seeds and new images."""
        cells = list({id(cell): cell for pair in pairs for cell in pair}.values())
        if not pairs:
            return Number(what, NONE, missing)
        place = {id(cell): i for i, cell in enumerate(cells)}
        weight_K = np.zeros(len(cells))
        for a, b in pairs:
            weight_K[place[id(a)]] += 1 / len(pairs)
            weight_K[place[id(b)]] -= 1 / len(pairs)
        beside = "; ".join(
            f"{label(a)} {_percent(a)} with {a.fact('params'):,} parameters, {label(b)} {_percent(b)} with {b.fact('params'):,}"
            for a, b in pairs
        )
        return Number(what, contrast(_accuracies(cells), weight_K), beside)


def _accuracies(cells: Sequence[stats.Cell]) -> stats.Means:
    return stats.Means.of(
        [cell.values("test_accuracy") for cell in cells],
        stats.one_image(cells[0].done[0], "test_accuracy"),
        stats.answers(cells, "test_accuracy"),
    )


def _means(cells: Sequence[np.ndarray]) -> stats.Means:
    distinct = np.unique(np.concatenate(cells))
    # Shares of few images or filters are discrete: equal runs may differ by one rounding step.
    return stats.Means.of(cells, float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0)


def contrast(means: stats.Means, weight_K: np.ndarray) -> stats.Estimate:
    """Compute a contrast of cell means with its interval and guarded p-value, see `stats.means.Contrasts.p`."""
    found = means.contrast(weight_K)
    return dataclasses.replace(found, p=float(means.contrasts(weight_K[None]).p[0])) if found.known else found


def _percent(cell: stats.Cell) -> str:
    return f"{100 * cell.mean('test_accuracy'):.2f} %"
