"""A sweep from its plan to its report."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import data, execution, report, search
from cnn_jax.aliases import JsonObject
from cnn_jax.cli import about, live, output
from cnn_jax.cli.job import Job
from cnn_jax.console import Console
from cnn_jax.records import store
from cnn_jax.trial import Trial


def _of(trials: Sequence[Trial], records: Sequence[JsonObject]) -> list[JsonObject]:
    asked = {trial.id for trial in trials}
    return [record for record in records if record["trial"] in asked]


def _added(job: Job, trials: Sequence[Trial], records: Sequence[JsonObject]) -> tuple[list[Trial], str]:
    """Further trials of the search strategy, then seeds for undecided cells; with a line of explanation."""
    if added := search.ask(job.strategy, trials, records):
        return added, f"{len(added)} more trials of the search"
    if job.resolve is None:
        return [], ""
    seeds = search.AddSeeds(job.resolve, job.max_seeds)
    added = seeds.ask(trials, records)
    return added, f"{len(added)} more trials for undecided cells{seeds.outlook(records)}"


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a run. `trials`: those of the job and the added ones; `page`: the report, None if none was written."""

    outcome: execution.Outcome
    trials: list[Trial]
    page: Path | None

    @property
    def recorded(self) -> int:
        """Trials with a record, of success or of failure."""
        return sum(self.outcome.counts.values())


def run(job: Job, console: Console, command: str) -> Result:
    """Prepare the data, train what is missing, run what the search adds, write the report.

    Args:
      job: the sweep.
      console: of the progress.
      command: recorded with the results.
    """
    planned, out, options = job.planned, job.out, job.options
    if job.note:
        console.print(job.note)
    summary = about.describe(planned, job.question, job.resolve)
    execution.check(out, options)
    if options.executor == "local":
        execution.warm_up(planned.units)

    def cost(trial: Trial) -> float:
        return planned.cost(trial)  # `planned` grows with the trials that are added

    def lane_bytes(trial: Trial) -> int:
        return planned.lane_bytes(trial)

    progress = live.progress_for(console, lambda trial: planned.training_images(trial), cost)
    with progress.preparing():  # before anything is written: it finds broken images in the middle of the data
        for config in planned.info:
            data.prepare(config)
    output.warn(planned.warnings())
    trials: list[Trial] = []
    page, added, note = None, list(planned.trials), ""
    page_so_far = live.Live(lambda: report.write(out, trials, running=True))
    progress.live_page = page_so_far
    while added:
        if note:
            console.print(note, soft_wrap=True)
            planned = job.extended(planned, added)
        trials += added
        outcome = execution.run(
            trials, out, command, options, cost=cost, lane_bytes=lane_bytes, progress=progress, about=summary
        )
        if outcome.interrupted:
            break
        added, note = _added(job, trials, _of(trials, store.read(out)))
    page_so_far.close()
    execution.end(out, options)
    with store.reporting(out):
        if outcome.interrupted:
            report.write_results(out)  # without delay; the page can wait
            if page_so_far.written and outcome.counts:
                report.write(out, trials)  # else it would state that the sweep runs
        if outcome.counts:
            about.keep_images(out, planned.info, _of(trials, store.read(out)))
        if outcome.counts and not outcome.interrupted:
            page = report.write(out, trials)
            if job.tensorboard:
                report.write_tensorboard(out)
    return Result(outcome, trials, page)


def follow(job: Job, console: Console) -> int:
    """Train for host 0; return the exit status."""
    if job.note:
        console.print(job.note)
    execution.check(job.out, job.options)
    for config in job.planned.info:
        data.prepare(config)
    if trouble := execution.follow(job.planned.trials, job.out, job.options, console.print):
        print(f"error: {trouble}: rerun the same commands on all hosts to resume from the last checkpoint", file=sys.stderr)
        return 1
    console.print(f"host {job.options.host} is done: host 0 has the results")
    return 0


def conclude(result: Result, job: Job, console: Console) -> int:
    """Print the answer of a run, and its failed and missing trials; return the exit status."""
    if result.page:
        if not draw_conclusions(result, job, console):
            report.terminal([job.out], console, result.trials)
        console.print(f"report: {result.page}", soft_wrap=True)
    for line in complaints(result, job.out):
        print(line, file=sys.stderr)
    if result.outcome.interrupted:
        return 130
    return 0 if result.outcome.counts.get("done", 0) == len(result.trials) else 1


def draw_conclusions(result: Result, job: Job, console: Console) -> bool:
    """Print the experiment's own conclusion if it has one and some trial is done; return whether it did."""
    records = _of(result.trials, store.read(job.out))
    if job.conclude is None or result.page is None or not any(record["status"] == "done" for record in records):
        return False
    job.conclude(job.out, records, console)
    return True


def complaints(result: Result, out: Path) -> list[str]:
    """Print a line per failed trial, and one on trials without a record."""
    there, total, counts = result.recorded, len(result.trials), result.outcome.counts
    if result.outcome.interrupted:
        return [f"interrupted with {there} of {total} trials done: rerun the same command to resume"]
    lines = list(result.outcome.problems)
    if counts.get("failed") and (out / "logs").exists():
        lines.append(f"output of the workers, with tracebacks: {out}/logs")
    if there < total:
        lines.append(f"{total - there} of {total} trials have no record: rerun the same command to run them")
    return lines
