"""What a user says about the columns of a table; the rest is guessed."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Columns by their names in the file, or by the part behind a tracker's prefix; None where they are to be guessed.

    Attributes:
        metric: What runs are compared on.
        factors: What the cells of the sweep differ in.
        seed: What tells the runs of a cell apart.
        lower_is_better: Whether the best cell is that of lowest mean.
        study: The study of an Optuna storage that holds several.
    """

    metric: str | None = None
    factors: tuple[str, ...] | None = None
    seed: str | None = None
    lower_is_better: bool | None = None
    study: str | None = None
