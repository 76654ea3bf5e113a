"""Random permutations with stable streams."""

import numpy as np


def order(seed: int, n: int) -> np.ndarray:
    """Draw a random permutation of n, int64 (n,).

    Ranks of n raw outputs of Philox: unlike that of `Generator.permutation`, this stream is guaranteed not to change.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(n), kind="stable")
