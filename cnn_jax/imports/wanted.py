"""Columns of a table given by the user; the others are guessed."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Columns by their names in the file, with or without a tracker's prefix; None: guess.

    Attributes:
        metric: Column of the metric.
        factors: Columns that define the cells of the sweep.
        seed: Column that distinguishes the runs of a cell.
        lower_is_better: Whether a lower mean is better.
        study: Study of an Optuna storage with several studies.
    """

    metric: str | None = None
    factors: tuple[str, ...] | None = None
    seed: str | None = None
    lower_is_better: bool | None = None
    study: str | None = None
