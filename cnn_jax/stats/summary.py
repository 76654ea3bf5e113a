"""All that a report says about a sweep, computed once."""

import dataclasses
from collections.abc import Sequence

from cnn_jax.stats.cells import Design, Record, design


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A sweep's cells and what can be said of them. `metric` is what they are compared on."""

    design: Design
    metric: str


def analyse(records: Sequence[Record]) -> Analysis:
    """Compares cells on validation accuracy; on test accuracy where some run has none, because nothing was held out."""
    done = [r for r in records if r["status"] == "done"]
    validated = bool(done) and all(r["val_accuracy"] is not None for r in done)
    return Analysis(design(records), "val_accuracy" if validated else "test_accuracy")
