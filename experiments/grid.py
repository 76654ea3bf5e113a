"""Filters, kernel sizes and padding, all combinations: what matters, and do the factors interact?"""

from cnn_jax import cli
from cnn_jax.cli.flags import Request
from cnn_jax.config import Trial

DEFAULTS = {"filters": "8,16,32", "kernel_size": "3,5", "padding": "valid,same"}


def trials(request: Request) -> list[Trial]:
    """The product of the axes."""
    return request.product()


if __name__ == "__main__":
    cli.main(__name__)
