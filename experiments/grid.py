"""Filters, kernel sizes and padding, all combinations: what matters, and do the factors interact?

    python launch.py        36 trials on digits, 10 to 17 s on two cores, compiling included

Filters +1.85 points of validation accuracy from 8 to 32 (95 % interval +1.10 to +2.60), padding 'same' +1.16 over 'valid'
(+0.55 to +1.76), no effect of 5x5 instead of 3x3, no interaction. Best cell 98.4 % test (n = 3); 10 of 11 are not told from it.
"""

from cnn_jax import cli
from cnn_jax.cli.flags import Request
from cnn_jax.trial import Trial

# They are for this model: another one that is named on the command line is trained as it is named.
DEFAULTS = {"model": "cnn", "filters": "8,16,32", "kernel_size": "3,5", "padding": "valid,same"}


def trials(request: Request) -> list[Trial]:
    """The product of the axes."""
    return request.product()


if __name__ == "__main__":
    cli.main(__name__)
