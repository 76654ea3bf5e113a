"""CKA between layers of different networks: across the seeds of a cell, and across cells. N images."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

Grams = Mapping[str, np.ndarray]  # `measures.cka.unit_gram` by layer, all on the same images


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Mean CKA of a layer of one cell with a layer of another, over pairs with one network from each cell.

    Within a cell, pairs are of different networks. Pairs share networks, so `lowest` and `highest` are the observed range, not
    an interval.
    """

    cell: str
    layer: str
    other_cell: str
    other_layer: str
    mean: float
    lowest: float
    highest: float
    pairs: int


def between(a: Grams, b: Grams) -> np.ndarray:
    """Compute the CKA of every layer of one network with every layer of another: (layers of a, layers of b)."""
    rows, columns = (np.stack([gram.ravel() for gram in grams.values()]) for grams in (a, b))
    return rows @ columns.T


def identified(cka_LL: np.ndarray) -> float:
    """Compute the share of layers whose most similar layer is the same layer (Kornblith et al. 2019, section 6.1)."""
    return float(np.mean(cka_LL.argmax(axis=1) == np.arange(len(cka_LL))))


def over_seeds(networks: Mapping[str, Sequence[Grams]]) -> list[Similarity]:
    """Compute the similarities of networks, given by the label of their cell.

    Within a cell every layer is compared with every layer of the other seeds; between cells, layers of the same name.
    """
    out = []
    for (cell, own), (other, others) in itertools.combinations_with_replacement(networks.items(), 2):
        pairs = list(itertools.combinations(own, 2) if cell == other else itertools.product(own, others))
        if not pairs:
            continue
        for a, b in itertools.product(pairs[0][0], pairs[0][1]):
            if a != b and cell != other:
                continue
            found = [float(np.vdot(first[a], second[b])) for first, second in pairs]
            out.append(Similarity(cell, a, other, b, float(np.mean(found)), min(found), max(found), len(found)))
    return out
