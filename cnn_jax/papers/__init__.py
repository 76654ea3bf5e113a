"""Published tables beside ours: a file per paper, and the comparison."""

from cnn_jax.papers.kayhan2020 import KAYHAN2020
from cnn_jax.papers.keras_mnist import KERAS_MNIST
from cnn_jax.papers.lenet1998 import LENET1998
from cnn_jax.papers.paper import Compared, Paper, Published, Row, compare

PAPERS: dict[str, Paper] = {"kayhan2020": KAYHAN2020, "keras_mnist": KERAS_MNIST, "lenet1998": LENET1998}

__all__ = ["PAPERS", "Compared", "Paper", "Published", "Row", "compare"]
