"""Selection of the epoch whose parameters are kept and reported (--select), and early stopping (--patience).

Epochs are compared on the validation images alone. Shapes: T trials, V validation images.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from cnn_jax.aliases import JsonObject, PyTree
from cnn_jax.trial import TrainConfig

Curves = Sequence[Mapping[str, Sequence[float | None]]]  # a row per epoch, a list over trials in each


@dataclasses.dataclass(frozen=True)
class Selection:
    """The epoch of each trial that is kept so far.

    Attributes:
      epochs: counted from 1; 0: none yet.
      stopped: epoch after which training stopped for lack of improvement; None: not stopped.
      metrics: on the validation images, at the kept epoch.
      right_TV: bool, answers to the validation images at the kept epoch.
      variables: of the network at the kept epoch, on the host; None where they are those of the last step.
    """

    epochs: tuple[int, ...]
    stopped: tuple[int | None, ...]
    metrics: tuple[dict[str, float | None], ...]
    right_TV: np.ndarray
    variables: PyTree

    @classmethod
    def start(cls, train: TrainConfig, trials: int, validation: int, variables: PyTree) -> "Selection":
        """Before the first epoch. `variables` have a leading axis of lanes, of which the first are the trials."""
        keeps = train.select != "last" or train.patience is not None
        kept = jax.tree.map(lambda leaf: np.array(leaf[:trials]), variables) if keeps else None
        return cls((0,) * trials, (None,) * trials, ({},) * trials, np.zeros((trials, validation), bool), kept)

    def needs_metrics(self, train: TrainConfig, epoch: int) -> bool:
        """Whether an epoch may become the selected one."""
        return self.variables is not None or epoch == train.epochs

    def after(
        self,
        train: TrainConfig,
        history: Curves,
        right_TV: np.ndarray,
        metrics: Sequence[dict[str, float | None]] | None,
        variables: PyTree,
    ) -> "Selection":
        """The selection after an epoch.

        Args:
          train: configuration of the trials.
          history: all finished epochs.
          right_TV: answers to the validation images.
          metrics: on the validation images, by trial; None where they were not measured.
          variables: of the network, with a leading axis of lanes.
        """
        epoch, count = len(history), len(self.epochs)
        bests = [best_epoch(train.select, history, t) for t in range(count)]
        open_ = [self.stopped[t] is None for t in range(count)]
        stopped = tuple(
            epoch if open_[t] and train.patience and epoch - bests[t] >= train.patience else self.stopped[t]
            for t in range(count)
        )
        kept = np.array([open_[t] and (train.select == "last" or bests[t] == epoch) for t in range(count)])
        # With --select=last, variables are copied only when training stops: until then they are those of the last step.
        copied = kept if train.select != "last" else np.array([stopped[t] == epoch for t in range(count)])
        return Selection(
            tuple(epoch if kept[t] else self.epochs[t] for t in range(count)),
            stopped,
            tuple(metrics[t] if kept[t] and metrics else self.metrics[t] for t in range(count)),
            np.where(kept[:, None], right_TV, self.right_TV),
            self.variables if self.variables is None or not copied.any() else _replaced(self.variables, variables, copied),
        )

    def variables_of(self, train: TrainConfig, last: PyTree) -> PyTree:
        """Variables at the kept epochs, with a leading axis of lanes; `last` are those of the last step."""
        if self.variables is None:
            return last
        old = np.array([train.select != "last" or stopped is not None for stopped in self.stopped])
        return jax.tree.map(lambda kept, leaf: _first_lanes(old, kept, np.array(leaf)), self.variables, last)

    def to_json(self) -> JsonObject:
        """Return everything but the arrays as JSON."""
        return {"epochs": self.epochs, "stopped": self.stopped, "metrics": self.metrics}

    @classmethod
    def from_json(cls, raw: JsonObject, right_TV: np.ndarray, variables: PyTree) -> "Selection":
        """The selection that `to_json` describes, with its arrays."""
        return cls(tuple(raw["epochs"]), tuple(raw["stopped"]), tuple(raw["metrics"]), right_TV, variables)


def best_epoch(select: str, history: Curves, trial: int) -> int:
    """The first of the best epochs, counted from 1: by validation accuracy and then loss, or by loss where `select` says so."""

    def score(row: Mapping[str, Sequence[float | None]]) -> tuple[float, float]:
        accuracy, loss = (_number(row[name][trial]) for name in ("val_accuracy", "val_loss"))
        return (0.0 if select == "best_loss" else accuracy, -loss)

    scores = [score(row) for row in history]
    return scores.index(max(scores)) + 1


def _number(value: float | None) -> float:
    return float("inf") if value is None or np.isnan(value) else value


def _replaced(kept: PyTree, variables: PyTree, lanes_T: np.ndarray) -> PyTree:
    """`kept` with the lanes of `lanes_T` (bool) taken from `variables`."""
    return jax.tree.map(lambda old, new: _first_lanes(~lanes_T, old, np.asarray(new)[: len(lanes_T)]), kept, variables)


def _first_lanes(old_T: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`new` with its first lanes replaced by `old` where `old_T` is set."""
    out = np.array(new)
    out[: len(old_T)][old_T] = old[old_T]
    return out
