"""Trials -> buckets that share one compiled program."""

import dataclasses
from collections.abc import Iterable

from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Trials that share one compiled program: equal in `Trial.static`."""

    trials: tuple[Trial, ...]

    @property
    def static(self) -> tuple:
        return self.trials[0].static


def buckets(trials: Iterable[Trial]) -> list[Bucket]:
    """Trials grouped by the program that they share, in order of first appearance."""
    groups: dict[tuple, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.static, []).append(trial)
    return [Bucket(tuple(group)) for group in groups.values()]
