"""cnn_jax: what do filter count, kernel size and padding mode really do to a convnet?

Names are handed on lazily, so that planning a sweep or reading a report imports no JAX.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "conv": "nn.functional",
    "conv_transpose": "nn.functional",
    "max_pool": "nn.functional",
    "avg_pool": "nn.functional",
    "pad": "nn.padding",
    "describe": "description",
    "open_trial": "analysis.trained",
    "TrainedNetwork": "analysis.network",
    "CNN": "nn.network",
    "check_model": "nn.check",
    "Trial": "trial",
    "ModelConfig": "trial",
    "DataConfig": "trial",
    "TrainConfig": "trial",
    "UsageError": "errors",
    "run_sweep": "api",
    "Sweep": "api",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"cnn_jax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'cnn_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
