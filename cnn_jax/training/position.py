"""Progress of some trials through training: a `Position` that `advance` moves forward.

The position is data, so it can be checkpointed and resumed anywhere. Shapes: T trials of a bucket, V validation images, S steps
of an epoch, B images of a batch, K classes.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax.training import metrics
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.evaluation import Answers, evaluate
from cnn_jax.training.loop import epoch_order, steps_per_epoch
from cnn_jax.training.program import Program, hyper_of, stack_states
from cnn_jax.training.selection import Selection
from cnn_jax.training.snapshots import Snapshots
from cnn_jax.training.step import TrainState, create_train_state, variables_of
from cnn_jax.trial import TrainConfig, Trial

Row = dict[str, list[float | None]]  # curves' values at the end of an epoch, a list over trials


@dataclasses.dataclass(frozen=True)
class Position:
    """How far some trials are: their states after `step` steps, and what was measured on the way. Leading axis: trials.

    Attributes:
      state: of the steps done.
      sums_T2S: sums of loss and of right answers per step of the epoch under way.
      step: steps done.
      history: a row per finished epoch.
      diverged: step whose loss was not finite, of each trial.
      train_seconds: spent in `advance`.
      selection: the epoch of each trial whose parameters are kept.
      snapshots: parameters at the epochs that --snapshots names.
      order_TSB: batches of the epoch under way; None: not drawn yet. A function of seeds and epoch, so no checkpoint has it.
    """

    state: TrainState
    sums_T2S: Any
    step: int
    history: tuple[Row, ...]
    diverged: tuple[int | None, ...]
    train_seconds: float
    selection: Selection
    snapshots: Snapshots
    order_TSB: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays, for a checkpoint."""
        leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self._arrays))}
        rest = {"step": self.step, "history": self.history, "diverged": self.diverged, "train_seconds": self.train_seconds}
        rest |= {"selection": self.selection.to_json()}
        return {**leaves, **self.snapshots.arrays(), "rest": np.frombuffer(json.dumps(rest).encode(), np.uint8)}

    @property
    def _arrays(self) -> Any:
        return self.state, self.sums_T2S, self.selection.right_TV, self.selection.variables

    def restored(self, arrays: Mapping[str, np.ndarray]) -> "Position":
        """The position that `arrays` were made of; self gives the structure. Raises ValueError if they do not fit."""
        old, treedef = jax.tree.flatten(self._arrays)
        try:
            new = [arrays[f"leaf{i}"] for i in range(len(old))]
            rest = json.loads(arrays["rest"].tobytes())
            selection = rest["selection"]
        except KeyError as error:
            raise ValueError(f"checkpoint lacks {error}") from None
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(new, old, strict=True)):
            raise ValueError("checkpoint of another shape")
        state, sums, right_TV, variables = jax.tree.unflatten(treedef, new)
        past, diverged = tuple(rest["history"]), tuple(rest["diverged"])
        selected = Selection.from_json(selection, right_TV, variables)
        snapshots = self.snapshots.restored(arrays, variables_of(state), len(diverged), len(past))
        return Position(state, sums, rest["step"], past, diverged, rest["train_seconds"], selected, snapshots)


def start(program: Program, trials: Sequence[Trial], data: DeviceData, snapshots: Sequence[int] = ()) -> Position:
    """The position before the first step. `snapshots`: epochs whose parameters are kept besides."""
    states = stack_states(
        [
            create_train_state(program.model, data.input_shape, program.setup, trial.dynamic)
            for trial in _filled(program, trials)
        ]
    )
    steps = steps_per_epoch(len(data.train_labels), trials[0].train.batch_size)
    sums_T2S = np.zeros((program.lanes, 2, steps), np.float32)
    selection = Selection.start(trials[0].train, len(trials), data.validation, variables_of(states))
    begin = Snapshots(tuple(snapshots)).after(0, variables_of(states), len(trials))
    return Position(states, sums_T2S, 0, (), (None,) * len(trials), 0.0, selection, begin)


def _filled(program: Program, trials: Sequence[Trial]) -> list[Trial]:
    # A bucket that lost members runs the same program, with idle lanes: a result never depends on its neighbours.
    return [*trials, *[trials[-1]] * (program.lanes - len(trials))]


def finished(trials: Sequence[Trial], position: Position) -> bool:
    """Whether every trial is trained to its end, stopped early, or diverged."""
    ended = zip(position.diverged, position.selection.stopped, strict=True)
    return len(position.history) == trials[0].train.epochs or all(ends != (None, None) for ends in ended)


def advance(program: Program, trials: Sequence[Trial], data: DeviceData, position: Position, most_steps: int) -> Position:
    """Train at most `most_steps` steps, to the epoch's end at most; there the validation images are evaluated."""
    began = time.perf_counter()
    train = trials[0].train
    examples = len(data.train_labels)
    per_epoch = steps_per_epoch(examples, train.batch_size)
    epoch, first = divmod(position.step, per_epoch)
    last = min(first + most_steps, per_epoch)
    filled = _filled(program, trials)

    def drawn(epoch: int) -> np.ndarray:
        return np.stack([epoch_order(trial.seed, epoch, examples, train.batch_size) for trial in filled])

    order_TSB = drawn(epoch) if position.order_TSB is None else position.order_TSB
    state, sums_T2S = program.train(
        position.state,
        hyper_of(filled),
        position.sums_T2S,
        data.train_images,
        data.train_labels,
        data.placement.orders(order_TSB),
        np.int32(first),
        np.int32(last),
    )
    following: np.ndarray | None = order_TSB
    if last == per_epoch:  # the next epoch's, while the device computes
        following = drawn(epoch + 1) if epoch + 1 < train.epochs else None
    loss_TS, right_TS = np.asarray(sums_T2S, np.float64).transpose(1, 0, 2)[:, : len(trials)]
    diverged = tuple(
        known if known is not None else _first_not_finite(loss_TS[t, first:last], position.step)
        for t, known in enumerate(position.diverged)
    )
    seconds = position.train_seconds + time.perf_counter() - began
    history, selection, snapshots = position.history, position.selection, position.snapshots
    if last == per_epoch:
        needed = selection.needs_metrics(train, len(history) + 1)
        answers = evaluate(program, variables_of(state), data, range(data.validation), logits=needed)
        history = (*history, _row(loss_TS.sum(1) / examples, right_TS.sum(1) / examples, answers, data.validation))
        measured = None if answers.logits_TNK is None else _metrics(train, answers.logits_TNK[: len(trials)], data)
        selection = selection.after(train, history, answers.right_TN[: len(trials)], measured, variables_of(state))
        snapshots = snapshots.after(len(history), variables_of(state), len(trials))
    return Position(state, sums_T2S, epoch * per_epoch + last, history, diverged, seconds, selection, snapshots, following)


def _row(loss_T: np.ndarray, accuracy_T: np.ndarray, answers: Answers, validation: int) -> Row:
    """A row of history; validation values are None without validation images."""
    count = len(loss_T)
    means = [
        values_TN[:count].mean(1).tolist() if validation else [None] * count
        for values_TN in (answers.loss_TN, answers.right_TN)
    ]
    return {
        "train_loss": loss_T.tolist(),
        "train_accuracy": accuracy_T.tolist(),
        "val_loss": means[0],
        "val_accuracy": means[1],
    }


def _metrics(train: TrainConfig, logits_TVK: np.ndarray, data: DeviceData) -> list[dict[str, float | None]]:
    """Metrics of each trial on the validation images."""
    labels_V = data.labels[: data.validation]
    return [metrics.measure(train.metrics, logits_VK, labels_V) for logits_VK in logits_TVK]


def _first_not_finite(loss_S: np.ndarray, step: int) -> int | None:
    bad = np.flatnonzero(~np.isfinite(loss_S))
    return step + int(bad[0]) if len(bad) else None
