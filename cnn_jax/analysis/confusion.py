"""Misclassified images and confused classes. N images, K classes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A misclassified image: its index, label and predicted class, and the probabilities of both."""

    image: int
    label: int
    answer: int
    of_label: float
    of_answer: float


def mistakes(logits_NK: np.ndarray, labels_N: np.ndarray) -> list[Mistake]:
    """List the misclassified images by descending difference between the logits of predicted class and label."""
    answers_N = logits_NK.argmax(-1)
    wrong = np.flatnonzero(answers_N != labels_N)
    margin = logits_NK[wrong, answers_N[wrong]] - logits_NK[wrong, labels_N[wrong]]
    p_NK = probabilities(logits_NK[wrong])
    return [
        Mistake(
            image := int(wrong[i]),
            int(labels_N[image]),
            int(answers_N[image]),
            float(p_NK[i, labels_N[image]]),
            float(p_NK[i, answers_N[image]]),
        )
        for i in np.argsort(-margin, kind="stable")
    ]


def probabilities(logits_NK: np.ndarray) -> np.ndarray:
    """Compute the softmax over classes."""
    e_NK = np.exp(logits_NK - logits_NK.max(axis=-1, keepdims=True))
    return e_NK / e_NK.sum(axis=-1, keepdims=True)


def most_confused(matrix_KK: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """List the most frequent off-diagonal entries as (label, predicted class, images), in descending order."""
    wrong_KK = matrix_KK * ~np.eye(len(matrix_KK), dtype=bool)
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:count]
    pairs = np.stack(np.unravel_index(order, wrong_KK.shape), axis=1)
    return [(int(i), int(j), int(wrong_KK[i, j])) for i, j in pairs if wrong_KK[i, j]]
