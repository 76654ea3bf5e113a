"""cnn_jax: what do filter count, kernel size and padding mode really do to a convnet?

Names are handed on lazily, so that planning a sweep or reading a report imports no JAX.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "conv": "layers",
    "conv_transpose": "layers",
    "max_pool": "layers",
    "avg_pool": "layers",
    "pad": "layers",
    "describe": "summary",
    "CNN": "models",
    "check_model": "models",
    "Trial": "config",
    "ModelConfig": "config",
    "DataConfig": "config",
    "TrainConfig": "config",
    "UsageError": "config",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"cnn_jax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'cnn_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
