"""What a sweep says of each sentence: numbers with intervals, from the records and from the measures of `analysis`."""

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
SPARSE = 0.5  # share of zeros from which activations count as sparse: what inputs of both signs give
UNKNOWN = "no network of this sweep can tell"
NONE = stats.Estimate(math.nan, math.nan, math.nan, 0)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Values of one trial by measure, then by layer, in order of computation."""

    values: Mapping[str, Mapping[str, float]]

    @property
    def convolutions(self) -> tuple[str, ...]:
        """Names of the layers of units with spatial axes."""
        return tuple(self.values.get("alike", ()))

    @property
    def last(self) -> str:
        """Name of the last layer, the logits."""
        return list(self.values.get("probe", {"": 0.0}))[-1]

    def get(self, name: str, layer: str) -> float:
        """A value; nan where it is not known."""
        return self.values.get(name, {}).get(layer, math.nan)

    def mean(self, name: str, layers: Sequence[str]) -> float:
        """Mean over layers; nan where one is not known."""
        return float(np.mean([self.get(name, layer) for layer in layers])) if layers else math.nan

    def place(self, which: str) -> str:
        """Name of the 'first', 'middle' or 'last' convolution; '' without convolutions."""
        names = self.convolutions
        index = {"first": 0, "middle": len(names) // 2, "last": len(names) - 1}[which]
        return names[index] if names else ""


class Evidence:
    """Numbers of a sweep.

    Attributes:
      networks: its cells.
      layers: values of every measured trial, by its id.
    """

    def __init__(self, networks: Networks, measured: "Measured"):
        self.networks = networks
        self.layers: dict[str, Layers] = {}
        values: dict[str, dict[str, dict[str, float]]] = {}
        for v in measured.values:
            values.setdefault(v.trial, {}).setdefault(v.name, {})[v.layer] = v.value
        self.layers = {trial: Layers(found) for trial, found in values.items()}

    def values(self, cell: stats.Cell, of: Callable[[Layers], float]) -> np.ndarray:
        """A value per measured trial of a cell; without those that are not known."""
        found = np.array([of(self.layers[r["trial"]]) for r in cell.done if r["trial"] in self.layers], float)
        return found[np.isfinite(found)]

    def over(self, cells: Sequence[stats.Cell], of: Callable[[Layers], float]) -> stats.Estimate:
        """Mean over cells of a value per trial, with the interval for new seeds on these images."""
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
        """The first of two terms less the second, paired by trial; each term has a word that says what it is."""
        (one, first), (other, second) = terms
        difference = self.over(cells, lambda layers: first(layers) - second(layers))
        if not difference.n:
            return Number(what, NONE, UNKNOWN, share)
        values = [self.over(cells, term).value for term in (first, second)]
        return Number(what, difference, f"{one} {values[0]:.3f}, {other} {values[1]:.3f}", share)

    def places(self, cell: stats.Cell, name: str) -> list[str]:
        """What a measure has values of in a cell's networks: layers, or shifts."""
        return list(next((self.layers[r["trial"]].values.get(name, {}) for r in cell.done if r["trial"] in self.layers), {}))

    def interval(self, cell: stats.Cell) -> stats.Estimate:
        """Mean test accuracy of a cell, with its interval for new seeds and new images, between 0 and 1."""
        found = contrast(_accuracies([cell]), np.ones(1))
        return dataclasses.replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0)) if found.known else found

    def unpaired(
        self, what: str, pair: tuple[stats.Cell, stats.Cell], of: Callable[[Layers], float], named: tuple[str, str]
    ) -> Number:
        """The mean of a value over one cell less that over another."""
        found = [self.values(cell, of) for cell in pair]
        if not all(values.size for values in found):
            return Number(what, NONE, UNKNOWN)
        beside = ", ".join(f"{word} {values.mean():.3f}" for word, values in zip(named, found, strict=True))
        return Number(what, contrast(_means(found), np.array([1.0, -1.0])), beside)

    def accuracy(self, what: str, pairs: Sequence[tuple[stats.Cell, stats.Cell]], missing: str) -> Number:
        """Mean over pairs of cells of the difference of their test accuracies, for new seeds and new images."""
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
    # Shares of few images or filters take few values: runs that agree may differ by the rounding to the next.
    return stats.Means.of(cells, float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0)


def contrast(means: stats.Means, weight_K: np.ndarray) -> stats.Estimate:
    """A contrast of cell means with its interval; its p is the guarded one of claims, see `stats.means.Contrasts.p`."""
    found = means.contrast(weight_K)
    return dataclasses.replace(found, p=float(means.contrasts(weight_K[None]).p[0])) if found.known else found


def _percent(cell: stats.Cell) -> str:
    return f"{100 * cell.mean('test_accuracy'):.2f} %"
