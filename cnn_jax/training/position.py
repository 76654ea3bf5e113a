"""Progress of some trials through training: a `Position` that `advance` moves forward.

The position is data, so it can be checkpointed and resumed anywhere. Shapes: T trials of a bucket, V validation images, S steps
of an epoch.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax.training.evaluation import evaluate
from cnn_jax.training.loop import epoch_order, steps_per_epoch
from cnn_jax.training.program import DeviceData, Program, hyper_of, stack_states
from cnn_jax.training.step import TrainState, create_train_state
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Position:
    """How far some trials are: their states after `step` steps, and what was measured on the way. Leading axis: trials."""

    state: TrainState
    sums_T2S: Any  # per step of the epoch under way: sums of loss and right answers
    step: int
    history: tuple[dict[str, list[float | None]], ...]  # per finished epoch: curves' values, a list over trials
    diverged: tuple[int | None, ...]  # step whose loss was not finite
    train_seconds: float
    right_TV: np.ndarray  # bool, answers to the validation images at the end of the last whole epoch

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays, for a checkpoint."""
        leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves((self.state, self.sums_T2S)))}
        rest = {"step": self.step, "history": self.history, "diverged": self.diverged, "train_seconds": self.train_seconds}
        return {**leaves, "rest": np.frombuffer(json.dumps(rest).encode(), np.uint8), "validation": self.right_TV}

    def restored(self, arrays: Mapping[str, np.ndarray]) -> "Position":
        """The position that `arrays` were made of; self gives the structure. Raises ValueError if they do not fit."""
        old, treedef = jax.tree.flatten((self.state, self.sums_T2S))
        try:
            new = [arrays[f"leaf{i}"] for i in range(len(old))]
            rest, right_TV = json.loads(arrays["rest"].tobytes()), arrays["validation"]
        except KeyError as error:
            raise ValueError(f"checkpoint lacks {error}") from None
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip([*new, right_TV], [*old, self.right_TV], strict=True)):
            raise ValueError("checkpoint of another shape")
        state, sums = jax.tree.unflatten(treedef, new)
        past, diverged = tuple(rest["history"]), tuple(rest["diverged"])
        return Position(state, sums, rest["step"], past, diverged, rest["train_seconds"], right_TV)


def start(program: Program, trials: Sequence[Trial], data: DeviceData) -> Position:
    """The position before the first step."""
    name = trials[0].train.optimizer
    states = stack_states(
        [create_train_state(program.model, data.input_shape, name, trial.seed) for trial in _filled(program, trials)]
    )
    steps = steps_per_epoch(len(data.train_labels), trials[0].train.batch_size)
    sums_T2S, right_TV = np.zeros((program.lanes, 2, steps), np.float32), np.zeros((len(trials), data.validation), bool)
    return Position(states, sums_T2S, 0, (), (None,) * len(trials), 0.0, right_TV)


def _filled(program: Program, trials: Sequence[Trial]) -> list[Trial]:
    # A bucket that lost members runs the same program, with idle lanes: a result never depends on its neighbours.
    return [*trials, *[trials[-1]] * (program.lanes - len(trials))]


def finished(trials: Sequence[Trial], position: Position) -> bool:
    """Whether every trial is trained to its end, or diverged."""
    return len(position.history) == trials[0].train.epochs or all(step is not None for step in position.diverged)


def advance(program: Program, trials: Sequence[Trial], data: DeviceData, position: Position, most_steps: int) -> Position:
    """Moves on by at most `most_steps` steps, to the epoch's end at most; there the validation images are evaluated."""
    began = time.perf_counter()
    train = trials[0].train
    examples = len(data.train_labels)
    per_epoch = steps_per_epoch(examples, train.batch_size)
    epoch, first = divmod(position.step, per_epoch)
    last = min(first + most_steps, per_epoch)
    filled = _filled(program, trials)
    order = np.stack([epoch_order(trial.seed, epoch, examples, train.batch_size) for trial in filled])
    state, sums_T2S = program.train(
        position.state,
        hyper_of(filled),
        position.sums_T2S,
        data.train_images,
        data.train_labels,
        data.divided(order),
        np.int32(first),
        np.int32(last),
    )
    loss_TS, right_TS = np.asarray(sums_T2S, np.float64).transpose(1, 0, 2)
    diverged = tuple(
        known if known is not None else _first_not_finite(loss_TS[t, first:last], position.step)
        for t, known in enumerate(position.diverged)
    )
    seconds = position.train_seconds + time.perf_counter() - began
    history, right_TV = position.history, position.right_TV
    if last == per_epoch:
        lanes = range(len(trials))
        loss_TV, right_TV = (answers[: len(trials)] for answers in evaluate(program, state, data, range(data.validation)))
        history = (
            *history,
            {
                "train_loss": [float(loss_TS[t].sum()) / examples for t in lanes],
                "train_accuracy": [float(right_TS[t].sum()) / examples for t in lanes],
                "val_loss": [float(loss_TV[t].mean()) if data.validation else None for t in lanes],
                "val_accuracy": [float(right_TV[t].mean()) if data.validation else None for t in lanes],
            },
        )
    return Position(state, sums_T2S, epoch * per_epoch + last, history, diverged, seconds, right_TV)


def _first_not_finite(loss_S: np.ndarray, step: int) -> int | None:
    bad = np.flatnonzero(~np.isfinite(loss_S))
    return step + int(bad[0]) if len(bad) else None
