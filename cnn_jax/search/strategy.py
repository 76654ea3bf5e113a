"""The interface of search strategies, those by name, and those of a fork."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cnn_jax import plugins
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import is_attribute
from cnn_jax.stats import Record
from cnn_jax.trial import Trial


class Strategy(Protocol):
    """Selects the trials to run next."""

    def ask(self, trials: Sequence[Trial], records: Sequence[Record]) -> Sequence[Trial]:
        """Return further trials, or none to end.

        Called before anything is run, and whenever all trials have ended. A rerun of the command asks again from the
        start, so the answers must depend on the arguments alone.

        Args:
          trials: all trials asked for so far.
          records: of those that ended.
        """
        ...


@dataclasses.dataclass(frozen=True)
class All:
    """Every planned trial, at once."""

    planned: tuple[Trial, ...]

    def ask(self, trials: Sequence[Trial], records: Sequence[Record]) -> Sequence[Trial]:
        return () if trials else self.planned


@dataclasses.dataclass(frozen=True)
class Random:
    """All seeds of some cells drawn from the planned ones; every call draws the same."""

    planned: tuple[Trial, ...]
    cells: int

    def ask(self, trials: Sequence[Trial], records: Sequence[Record]) -> Sequence[Trial]:
        if trials:
            return ()
        cells = list(dict.fromkeys(dataclasses.replace(trial, seed=0) for trial in self.planned))
        order = np.random.Generator(np.random.Philox(0)).permutation(len(cells))
        drawn = {cells[i] for i in order[: self.cells]}
        return [trial for trial in self.planned if dataclasses.replace(trial, seed=0) in drawn]


def load(name: str, planned: Sequence[Trial]) -> Strategy:
    """Return the strategy of --search for the planned trials.

    Args:
      name: 'all', 'random:N' or package.module:attribute.
      planned: trials of the experiment.

    Raises:
      UsageError: for an unknown name, or a fork's that is not a strategy.
    """
    if name == "all":
        return All(tuple(planned))
    kind, _, count = name.partition(":")
    if kind == "random" and count.isdecimal() and 0 < int(count) < 10**9:
        return Random(tuple(planned), int(count))
    if kind == "random" or not is_attribute(name):
        raise UsageError(f"--search: unknown strategy {name!r}: all, random:N for N of the cells, or package.module:attribute")
    what = f"--search: {name}"
    make = plugins.load_attribute(name, what)
    if not callable(make):
        raise UsageError(f"{what} is a {type(make).__name__}: it must be a function of the planned trials")
    with plugins.reporting(f"{what} failed", make):
        made = make(list(planned))
    if not callable(getattr(made, "ask", None)):
        raise UsageError(f"{what} returned a {type(made).__name__}, which has no method ask(trials, records)")
    return made


def ask(strategy: Strategy, trials: Sequence[Trial], records: Sequence[Record]) -> list[Trial]:
    """Ask a strategy, check its answer, and leave out what was asked for before.

    Raises:
      UsageError: the strategy raised, or returned anything other than trials.
    """
    what = f"--search: {type(strategy).__name__}.ask"
    with plugins.reporting(f"{what} failed", strategy.ask):
        found = list(strategy.ask(tuple(trials), tuple(records)))
    if wrong := [trial for trial in found if not isinstance(trial, Trial)]:
        raise UsageError(f"{what} returned a {type(wrong[0]).__name__} in its list: it must hold Trials alone")
    known = set(trials)
    return [trial for trial in dict.fromkeys(found) if trial not in known]
