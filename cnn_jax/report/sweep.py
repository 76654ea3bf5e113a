"""The trials of a report."""

import dataclasses
import functools
from pathlib import Path

from cnn_jax import stats
from cnn_jax.aliases import JsonObject
from cnn_jax.report import page_tables, pictures, provenance, trained
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The trials of a report, each once: those of one command, or all that one or more folders hold.

    `notes` are sentences about missing, omitted and duplicate trials.
    """

    records: list[stats.Record]
    plan: list[Trial]
    commands: list[JsonObject]
    damaged: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)
    images: dict[str, pictures.Images] = dataclasses.field(default_factory=dict)  # by checksum of the data set
    folders: tuple[Path, ...] = ()  # that the trials were read from
    running: bool = False  # whether more of the plan is being trained

    @property
    def resolve(self) -> float | None:
        """The difference for which the last command added seeds, a fraction of 1; None if it added none."""
        about = self.commands[-1].get("about") if self.commands else None
        found = about.get("resolve") if isinstance(about, dict) else None
        return found if isinstance(found, float) and 0 < found <= 1 else None

    @functools.cached_property
    def parts(self) -> list[tuple["Sweep", stats.Analysis]]:
        """The sweep of each data set with its analysis: accuracies on different images are not compared."""
        parts = list(stats.datasets(self.records).values()) or [[]]
        out = []
        for records in parts:
            sets = {r["config"]["data"]["dataset"] for r in records}
            plan = [t for t in self.plan if not sets or t.data.dataset in sets]
            out.append((dataclasses.replace(self, records=records, plan=plan), stats.analyse(records, self.resolve)))
        return out

    def setup(self, analysis: stats.Analysis) -> str:
        """The markup of what was trained, for one of `parts`."""
        return trained.block(self, analysis)

    def table_of_trials(self) -> str:
        """The markup of the table of all trials."""
        return page_tables.trials(self.records)

    def provenance(self) -> list[tuple[str, str]]:
        """Provenance of the results, a row per fact."""
        return provenance.rows(self)

    @property
    def missing(self) -> list[Trial]:
        """Planned trials without a record."""
        known = {r["trial"] for r in self.records}
        return [t for t in self.plan if t.id not in known]
