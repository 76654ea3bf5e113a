"""How many filters are enough? Accuracy, parameters and time against filter count."""

from cnn_jax import cli
from cnn_jax.cli.flags import Request
from cnn_jax.config import Trial

DEFAULTS = {"filters": "2,4,8,16,32,64"}


def trials(request: Request) -> list[Trial]:
    """The product of the axes."""
    return request.product()


if __name__ == "__main__":
    cli.main(__name__)
