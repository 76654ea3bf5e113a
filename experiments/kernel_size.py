"""Does a larger kernel see more, or only cost more?"""

from cnn_jax import cli
from cnn_jax.cli.flags import Request
from cnn_jax.config import Trial

DEFAULTS = {"kernel_size": "1,3,5,7"}


def trials(request: Request) -> list[Trial]:
    """The product of the axes."""
    return request.product()


if __name__ == "__main__":
    cli.main(__name__)
