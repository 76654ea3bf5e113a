"""Standard output, which may go away under a sweep: `| head`, `> log` on a disk that is full. The sweep goes on without it."""

import io
import sys
from collections.abc import Iterable

from cnn_jax.console import ENCODING_ERRORS, Console
from cnn_jax.console import discard as discard


def prepare() -> None:
    """Lets `print` replace what the encoding of standard output lacks, as the console does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ENCODING_ERRORS)


def console() -> Console:
    """The console of a sweep: it keeps quiet when standard output cannot be written any more."""
    return Console(lasting=True)


def warn(lines: Iterable[str]) -> None:
    """Prints each warning on a line of standard error."""
    for line in lines:
        print("warning: " + " ".join(line.split()), file=sys.stderr)
