"""The name of the command line in texts: `python launch.py` in a clone, `cnn-jax` where the package is installed."""

import sys
from pathlib import Path

_IN_A_CLONE, _INSTALLED = "python launch.py", "cnn-jax"


def _program() -> str:
    # An editable installation has both.
    started_as = Path(sys.argv[0] if sys.argv else "").name
    has_launcher = Path(__file__).resolve().parents[1].joinpath("launch.py").is_file()
    return _IN_A_CLONE if has_launcher and started_as != _INSTALLED else _INSTALLED


PROGRAM = _program()


def named(text: str) -> str:
    """Replace `python launch.py` in a text by the name of the command line."""
    return text.replace(_IN_A_CLONE, PROGRAM)
