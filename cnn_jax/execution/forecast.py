"""Remaining time of a sweep, estimated from the time that its trials and programs have taken so far. Reads no clock."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from cnn_jax.trial import Trial

ENOUGH_SECONDS = 1.0  # of training before the first forecast: the first steps are slower than the rest


@dataclasses.dataclass
class _Program:
    """Trials that share one compiled program."""

    cost: float  # of training on one image
    left: int = 0  # images still to be trained on
    seen: int = 0  # images trained on, in `seconds`
    seconds: float = 0.0
    compiled: bool = False


class Forecast:
    """Work done and left of a sweep, in images, cost and seconds."""

    def __init__(self, trials: Iterable[Trial], images_of: Callable[[Trial], int], cost: Callable[[Trial], float]):
        """images_of: trial -> training images over all epochs. cost: trial -> work, in any unit."""
        self.images_of = images_of
        self._programs: dict[tuple, _Program] = {}
        self._of: dict[str, _Program] = {}
        self._left: dict[str, int] = {}
        self._under_way: set[str] = set()
        for trial in trials:
            images, static = images_of(trial), trial.static
            if static not in self._programs:
                self._programs[static] = _Program(cost(trial) / max(images, 1))
            program = self._of[trial.id] = self._programs[static]
            program.left += images
            self._left[trial.id] = images
        self.total_cost = self._cost_left()
        self._compilations, self._compile_seconds = 0, 0.0

    def trained(self, trials: Sequence[Trial], images: int, seconds: float) -> None:
        """Count `images` more training images, summed over `trials` of one program, processed in `seconds` by one worker."""
        program = self._of[trials[0].id]
        program.seen, program.seconds, program.compiled = program.seen + images, program.seconds + seconds, True
        for trial in trials:
            self._under_way.add(trial.id)
            self._set(trial.id, self._left[trial.id] - images // len(trials))

    def compiled(self, trial: Trial, seconds: float) -> None:
        """Count the compilation of a trial's program in `seconds` by one worker."""
        self._of[trial.id].compiled = True
        self._compilations, self._compile_seconds = self._compilations + 1, self._compile_seconds + seconds

    def finished(self, trial_id: str) -> None:
        """Count a trial whose record is written."""
        self._under_way.discard(trial_id)
        self._set(trial_id, 0)

    def restarted(self, trials: Iterable[Trial]) -> None:
        """Count requeued trials; whether they can resume from a checkpoint is not known yet."""
        for trial in trials:
            self._under_way.discard(trial.id)
            self._set(trial.id, self.images_of(trial))

    @property
    def share_done(self) -> float:
        """Share of the sweep's cost that is done, 0 to 1."""
        return 1 - self._cost_left() / self.total_cost if self.total_cost else 1.0

    def seconds_left(self, workers: int) -> float | None:
        """Estimated time for the rest with this many workers; None until enough has been trained.

        A program that has not been trained yet is assumed to take time in proportion to its cost.
        """
        spent = sum(p.seconds for p in self._programs.values())
        cost = sum(p.seen * p.cost for p in self._programs.values())
        if spent < ENOUGH_SECONDS or not cost or not workers:
            return None

        def of_image(p: _Program) -> float:
            return p.seconds / p.seen if p.seen else p.cost * spent / cost

        compile_seconds = self._compile_seconds / max(self._compilations, 1)
        unfinished = [p for p in self._programs.values() if p.left]
        work = sum(p.left * of_image(p) + (0.0 if p.compiled else compile_seconds) for p in unfinished)
        longest = max((self._left[id] * of_image(self._of[id]) for id in self._under_way), default=0.0)
        return max(work / workers, longest)

    def _cost_left(self) -> float:
        return sum(p.left * p.cost for p in self._programs.values())

    def _set(self, id: str, left: int) -> None:
        left = max(left, 0)
        self._of[id].left += left - self._left[id]
        self._left[id] = left
