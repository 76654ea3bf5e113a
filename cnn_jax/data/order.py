"""Random permutations whose streams never change."""

import numpy as np


def order(seed: int, n: int) -> np.ndarray:
    """A random permutation of n, int64 (n,).

    The ranks of n raw outputs of Philox: unlike `Generator.permutation`, its stream is promised never to change.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(n), kind="stable")
