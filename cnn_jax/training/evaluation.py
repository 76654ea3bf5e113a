"""Evaluation of trained networks on the validation or the test images.

Shapes: T trials, E batches, B images of a batch, N images, K classes.
"""

import dataclasses

import numpy as np

from cnn_jax.aliases import PyTree
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.program import EVAL_BATCH, Program


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers of T networks to N images.

    Attributes:
      loss_TN: float64.
      right_TN: bool.
      logits_TNK: float32; None where they were not asked for.
    """

    loss_TN: np.ndarray
    right_TN: np.ndarray
    logits_TNK: np.ndarray | None


def evaluate(program: Program, variables: PyTree, data: DeviceData, which: range, *, logits: bool) -> Answers:
    """Evaluate the eval images at `which`: every one, none twice.

    Args:
      program: of the trials.
      variables: of the networks, with a leading axis of trials.
      data: the images.
      which: indices of eval images.
      logits: whether the logits are copied to the host.
    """
    size, lanes, classes = program.eval_batches * EVAL_BATCH, program.lanes, data.num_classes
    losses, rights = [np.zeros((lanes, 0))], [np.zeros((lanes, 0), bool)]
    all_logits = [np.zeros((lanes, 0, classes), np.float32)]
    for begin in range(which.start, which.stop, size):
        count = min(size, which.stop - begin)
        # The last piece is filled up with its own first image, whose answers are then cut off.
        indices = np.where(np.arange(size) < count, np.arange(begin, begin + size), begin).astype(np.int32)
        indices_EB = data.placement.orders(indices.reshape(-1, EVAL_BATCH))
        loss_TEB, right_TEB, logits_TEBK = program.evaluate(variables, data.eval_images, data.eval_labels, indices_EB)
        losses.append(np.asarray(loss_TEB, np.float64).reshape(lanes, -1)[:, :count])
        rights.append(np.asarray(right_TEB).reshape(lanes, -1)[:, :count])
        if logits:
            all_logits.append(np.asarray(logits_TEBK).reshape(lanes, -1, classes)[:, :count])
    return Answers(np.concatenate(losses, 1), np.concatenate(rights, 1), np.concatenate(all_logits, 1) if logits else None)
