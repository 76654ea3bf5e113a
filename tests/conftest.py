"""Small data that every test can have at once, and a cache of its own for the whole run."""

import atexit
import os
import shutil
import tempfile

import numpy as np
import pytest
from small_images import images

if "CNN_JAX_CACHE" not in os.environ:
    os.environ["CNN_JAX_CACHE"] = tempfile.mkdtemp(prefix="cnn_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["CNN_JAX_CACHE"], ignore_errors=True)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # after the settings above

# A (3,) added to a (2, 3) is a mistake more often than it is meant.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A value of --dataset: 203 training and 77 test images of 8x8."""
    rng = np.random.default_rng(7)
    (x, y), (u, v) = images(rng, 203), images(rng, 77)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x_train=x, y_train=y, x_test=u, y_test=v)
    return f"npz:{path}"
