"""Standard output, which may fail during a sweep (`| head`, `> log` on a full disk). The sweep continues without it."""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterable, Iterator

from absl import logging

from cnn_jax.console import ENCODING_ERRORS, Console
from cnn_jax.console import discard as discard


def prepare() -> None:
    """Make `print` replace characters that the encoding of standard output lacks, as the console does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ENCODING_ERRORS)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Context without library warnings that this package reports itself or that do not affect results."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # of palettes and metadata, which do not change what is read
            yield
    finally:
        logging.set_verbosity(before)


def console() -> Console:
    """The console of a sweep: silent once standard output can no longer be written."""
    return Console(lasting=True)


def warn(lines: Iterable[str]) -> None:
    """Print each warning on a line of standard error."""
    for line in lines:
        print("warning: " + " ".join(line.split()), file=sys.stderr)
