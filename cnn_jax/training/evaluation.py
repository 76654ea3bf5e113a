"""Evaluation of trained networks on the validation or the test images. Shapes: T trials, E batches, B images of a batch."""

import numpy as np

from cnn_jax.training.program import EVAL_BATCH, DeviceData, Program, variables_of
from cnn_jax.training.step import TrainState


def evaluate(program: Program, state: TrainState, data: DeviceData, which: range) -> tuple[np.ndarray, np.ndarray]:
    """Losses (float64) and right answers (bool), each (T, len(which)), of the eval images at `which`: every one, none twice."""
    size = program.eval_batches * EVAL_BATCH
    losses, rights = [np.zeros((program.lanes, 0))], [np.zeros((program.lanes, 0), bool)]
    for begin in range(which.start, which.stop, size):
        count = min(size, which.stop - begin)
        # The last piece is filled up with its own first image, whose answers are then cut off.
        indices = np.where(np.arange(size) < count, np.arange(begin, begin + size), begin).astype(np.int32)
        indices_EB = data.divided(indices.reshape(-1, EVAL_BATCH))
        loss_TEB, right_TEB = program.evaluate(variables_of(state), data.eval_images, data.eval_labels, indices_EB)
        losses.append(np.asarray(loss_TEB, np.float64).reshape(program.lanes, -1)[:, :count])
        rights.append(np.asarray(right_TEB).reshape(program.lanes, -1)[:, :count])
    return np.concatenate(losses, 1), np.concatenate(rights, 1)
