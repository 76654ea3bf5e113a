"""A sweep from its plan to its report."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnn_jax import data, execution, report, stats
from cnn_jax.cli import about, live, output
from cnn_jax.console import Console
from cnn_jax.records import store
from cnn_jax.sweep import plan
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Rule:
    """When to add seeds: until the cells within `resolve` of the best are known, or a cell has `most` seeds."""

    resolve: float  # a fraction of 1
    most: int

    def more(self, trials: Sequence[Trial], records: Sequence[dict[str, Any]]) -> list[Trial]:
        """Further seeds, half as many again, for every cell that is still open."""
        parts = stats.datasets(_of(trials, records)).values()
        still = {stats.key(cell.config) for part in parts for cell in stats.open_cells(part, self.resolve)}
        cells: dict[str, list[Trial]] = {}
        for trial in trials:
            cells.setdefault(dataclasses.replace(trial, seed=0).canonical, []).append(trial)
        added = []
        for first, group in cells.items():
            if stats.key(json.loads(first)) in still:
                n = len(group)
                added += [dataclasses.replace(group[0], seed=seed) for seed in range(n, min(n + max(n // 2, 1), self.most))]
        return added

    def outlook(self, trials: Sequence[Trial], records: Sequence[dict[str, Any]]) -> str:
        """How many seeds the sequence is expected to need, from the spread between seeds so far."""
        analyses = [stats.analyse(part) for part in stats.datasets(_of(trials, records)).values()]
        known = [stats.expected_seeds(a.sd, self.resolve, len(a.cells)) for a in analyses if a.sd > 0]
        if not known:
            return ""
        return f"; telling cells {100 * self.resolve:g} points apart takes about {max(known):,} seeds each"


def _of(trials: Sequence[Trial], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = {trial.id for trial in trials}
    return [record for record in records if record["trial"] in asked]


def run(
    planned: plan.Plan,
    console: Console,
    out: Path,
    command: str,
    options: execution.Options,
    *,
    rule: Rule | None,
    tensorboard: bool,
    summary: dict[str, Any],
) -> int:
    """Prepare the data, train what is missing, add seeds by the rule, write the report; return the exit status.

    summary: see `about` of `store.begin`.
    """
    execution.check(out, options.executor, options.workers)
    if options.executor == "local":
        execution.warm_up()
    progress = live.LiveProgress(console, planned.training_images, planned.cost)
    with progress.preparing():  # before anything is written: a broken image in the middle of the data shows only here
        for config in planned.info:
            data.prepare(config)
    output.warn(planned.warnings())
    trials = list(planned.trials)
    page_so_far = live.Live(lambda: report.write(out, trials, running=True))
    progress.live_page = page_so_far
    more: dict[str, Any] = {"cost": planned.cost, "progress": progress, "about": summary}
    outcome = execution.run(trials, out, command, options, **more)
    while rule and not outcome.interrupted and (added := rule.more(trials, store.read(out))):
        outlook = rule.outlook(trials, store.read(out))
        console.print(f"{len(added)} more trials where the answer is open{outlook}", soft_wrap=True)
        trials += added
        outcome = execution.run(trials, out, command, options, **more)
    page_so_far.close()
    with store.reporting(out):
        if outcome.interrupted:
            report.write_results(out)  # in time; the page can wait
        if outcome.counts:
            about.keep_images(out, planned.info, _of(trials, store.read(out)))
        if outcome.counts and not outcome.interrupted:
            page = report.write(out, trials)
            if tensorboard:
                report.write_tensorboard(out)
    if outcome.counts and not outcome.interrupted:
        report.terminal([out], console, trials)
        console.print(f"report: {page}", soft_wrap=True)
    return _status(outcome, len(trials), out)


def follow(planned: plan.Plan, console: Console, out: Path, options: execution.Options) -> int:
    """Work for host 0, which has the folder; return the exit status."""
    for config in planned.info:
        data.prepare(config)
    if trouble := execution.follow(out, options):
        print(f"error: {trouble}: rerun the same commands on all hosts to resume from the last checkpoint", file=sys.stderr)
        return 1
    console.print(f"host {options.host} is done: the results are with host 0")
    return 0


def _status(outcome: execution.Outcome, total: int, out: Path) -> int:
    """Report failed and missing trials; return the exit status."""
    there = sum(outcome.counts.values())
    if outcome.interrupted:
        print(f"interrupted with {there} of {total} trials done: rerun the same command to resume", file=sys.stderr)
        return 130
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    if outcome.counts.get("failed") and (out / "logs").exists():
        print(f"output of the workers, with tracebacks: {out}/logs", file=sys.stderr)
    if there < total:
        print(f"{total - there} of {total} trials have no record: rerun the same command to run them", file=sys.stderr)
    return 0 if outcome.counts.get("done", 0) == total else 1
