"""Results of finished trials. Shapes: T trials, N test images."""

import dataclasses
from collections.abc import Sequence

import flax.traverse_util
import jax
import numpy as np

from cnn_jax.aliases import Row
from cnn_jax.data import Dataset
from cnn_jax.errors import UsageError
from cnn_jax.records import confusion
from cnn_jax.training import metrics
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.evaluation import evaluate
from cnn_jax.training.loop import steps_per_epoch
from cnn_jax.training.position import Position, advance, finished, start
from cnn_jax.training.program import Program, compile_program
from cnn_jax.training.step import variables_of
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished trial measured.

    Attributes:
      status: done or diverged.
      reason: why it diverged.
      history: a row of curves per epoch.
      epoch: the kept one, counted from 1; None for a trial that diverged.
      test_loss: mean over the test images.
      test_correct: bool per test image.
      val_correct: bool per validation image; None without validation images.
      metrics: by name, as 'val_nll' and 'test_nll'.
      confusion: matrix of the test images as text, see `records.confusion`.
      variables: kept values by path, 'params/conv1/kernel'.
      snapshots: values at chosen epochs of the trial's own training, by epoch and path, '4/params/conv1/kernel'.
    """

    status: str
    reason: str | None
    history: list[Row]
    variables: dict[str, np.ndarray]
    epoch: int | None = None
    test_loss: float | None = None
    test_correct: np.ndarray | None = None
    val_correct: np.ndarray | None = None
    metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)
    confusion: str | None = None
    snapshots: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def results(program: Program, trials: Sequence[Trial], data: DeviceData, position: Position) -> list[Result]:
    """Evaluate the finished trials once on the test images; return a Result per trial."""
    selection = position.selection
    kept = selection.variables_of(trials[0].train, variables_of(position.state))
    answers = evaluate(program, kept, data, range(data.validation, len(data.eval_labels)), logits=True)
    assert answers.logits_TNK is not None
    labels_N = data.labels[data.validation :]
    flat = flax.traverse_util.flatten_dict(jax.device_get(kept), sep="/")
    per_epoch = steps_per_epoch(len(data.train_labels), trials[0].train.batch_size)
    out = []
    for t, trial in enumerate(trials):
        step = position.diverged[t]
        if step is None and not np.isfinite(answers.loss_TN[t]).all():
            step = position.step - 1  # the last step overflowed: its own loss was taken before
        stopped = selection.stopped[t]
        if step is not None and stopped is not None and step >= stopped * per_epoch:
            step = None  # after the trial's own end, beside longer ones of its bucket
        whole = position.history[: stopped if step is None else step // per_epoch]
        curve = [{"epoch": e, **{name: values[t] for name, values in row.items()}} for e, row in enumerate(whole, 1)]
        variables = {path: np.asarray(value[t]) for path, value in flat.items()}
        snapshots = position.snapshots.of(t, len(whole))
        if step is not None:
            reason = f"loss not finite at step {step} of {trial.train.epochs * per_epoch}"
            out.append(Result("diverged", reason, curve, variables, snapshots=snapshots))
            continue
        logits_NK = answers.logits_TNK[t]
        measured = metrics.measure(trial.train.metrics, logits_NK, labels_N)
        found: dict[str, float | None] = {f"val_{name}": value for name, value in selection.metrics[t].items()}
        found |= {f"test_{name}": value for name, value in measured.items()}
        out.append(
            Result(
                "done",
                None,
                curve,
                variables,
                selection.epochs[t],
                float(answers.loss_TN[t].mean()),
                answers.right_TN[t],
                selection.right_TV[t] if data.validation else None,
                found,
                confusion.encode(confusion.matrix(labels_N, logits_NK.argmax(-1), data.num_classes)),
                snapshots,
            )
        )
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
