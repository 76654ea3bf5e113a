"""Adding seeds to undecided cells (--resolve)."""

import dataclasses
import json
from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class AddSeeds:
    """Add seeds until the cells within `resolve` of the best are known, or a cell has `most` seeds.

    Attributes:
      resolve: a fraction of 1.
      most: seeds of a cell.
    """

    resolve: float
    most: int

    def ask(self, trials: Sequence[Trial], records: Sequence[stats.Record]) -> list[Trial]:
        """Further seeds, half as many again, for every undecided cell."""
        still = {
            stats.key(cell.config) for part in stats.datasets(records).values() for cell in stats.open_cells(part, self.resolve)
        }
        cells: dict[str, list[Trial]] = {}
        for trial in trials:
            cells.setdefault(dataclasses.replace(trial, seed=0).canonical, []).append(trial)
        added = []
        for first, group in cells.items():
            if stats.key(json.loads(first)) in still:
                n = len(group)
                added += [dataclasses.replace(group[0], seed=seed) for seed in range(n, min(n + max(n // 2, 1), self.most))]
        return added

    def outlook(self, records: Sequence[stats.Record]) -> str:
        """Sentence on the expected number of seeds, from the spread between seeds so far."""
        analyses = [stats.analyse(part) for part in stats.datasets(records).values()]
        known = [stats.expected_seeds(a.sd, self.resolve, len(a.cells)) for a in analyses if a.sd > 0]
        if not known:
            return ""
        return f"; resolving {100 * self.resolve:g} points takes about {max(known):,} seeds per cell"
