"""Results of finished trials. Shapes: T trials, N test images."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from cnn_jax.data import Dataset
from cnn_jax.errors import UsageError
from cnn_jax.training.evaluation import evaluate
from cnn_jax.training.loop import steps_per_epoch
from cnn_jax.training.position import Position, advance, finished, start
from cnn_jax.training.program import DeviceData, Program, compile_program, variables_of
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished trial measured. `variables`: trained values by path, 'params/conv1/kernel'."""

    status: str
    reason: str | None
    history: list[dict[str, Any]]
    test_loss: float | None
    test_correct: np.ndarray | None  # bool per test image
    val_correct: np.ndarray | None  # bool per validation image; None without validation images
    variables: dict[str, np.ndarray]


def results(program: Program, trials: Sequence[Trial], data: DeviceData, position: Position) -> list[Result]:
    """Evaluate the finished trials once on the test images; return a Result per trial."""
    loss_TN, right_TN = evaluate(program, position.state, data, range(data.validation, len(data.eval_labels)))
    flat = flax.traverse_util.flatten_dict(jax.device_get(variables_of(position.state)), sep="/")
    per_epoch = steps_per_epoch(len(data.train_labels), trials[0].train.batch_size)
    out = []
    for t, _ in enumerate(trials):
        step = position.diverged[t]
        if step is None and not np.isfinite(loss_TN[t]).all():
            step = position.step - 1  # the last step overflowed: its own loss was taken before
        whole = position.history if step is None else position.history[: step // per_epoch]
        curve = [{"epoch": e, **{name: values[t] for name, values in row.items()}} for e, row in enumerate(whole, 1)]
        variables = {path: np.asarray(value[t]) for path, value in flat.items()}
        if step is None:
            held_out = position.right_TV[t] if data.validation else None
            out.append(Result("done", None, curve, float(loss_TN[t].mean()), right_TN[t], held_out, variables))
        else:
            reason = f"loss not finite at step {step} of {trials[t].train.epochs * per_epoch}"  # type: ignore[operator]
            out.append(Result("diverged", reason, curve, None, None, None, variables))
    return out


def train_epochs(trial: Trial, data: Dataset) -> Result:
    """Trains one trial from start to end in this process: the whole engine as one call. Raises UsageError on a bad fit."""
    if not len(data.train_labels):
        raise UsageError("--validation_fraction: no training image is left")
    on_device = DeviceData.put(data)
    program = compile_program(trial, 1, on_device)
    position = start(program, [trial], on_device)
    while not finished([trial], position):
        position = advance(program, [trial], on_device, position, 10**9)
    return results(program, [trial], on_device, position)[0]
