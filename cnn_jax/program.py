"""The name of the command line in texts: `python launch.py` in a clone, `cnn-jax` where the package is installed."""

from pathlib import Path

_IN_A_CLONE = "python launch.py"
PROGRAM = _IN_A_CLONE if Path(__file__).resolve().parents[1].joinpath("launch.py").is_file() else "cnn-jax"


def named(text: str) -> str:
    """A text that speaks of `python launch.py`, with the name of the command line in its place."""
    return text.replace(_IN_A_CLONE, PROGRAM)
