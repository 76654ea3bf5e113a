"""Replications of published tables: a file per paper, and the comparison."""

from cnn_jax.papers.alain2016 import ALAIN2016
from cnn_jax.papers.gavrikov2023 import GAVRIKOV2023
from cnn_jax.papers.jordan2023 import JORDAN2023
from cnn_jax.papers.kayhan2020 import KAYHAN2020
from cnn_jax.papers.keras_mnist import KERAS_MNIST
from cnn_jax.papers.lenet1998 import LENET1998
from cnn_jax.papers.luo2016 import LUO2016
from cnn_jax.papers.paper import Above, Compared, OfAll, Paper, PerSeed, Published, Row, compare
from cnn_jax.papers.picard2021 import PICARD2021

PAPERS: dict[str, Paper] = {
    "alain2016": ALAIN2016,
    "gavrikov2023": GAVRIKOV2023,
    "jordan2023": JORDAN2023,
    "kayhan2020": KAYHAN2020,
    "keras_mnist": KERAS_MNIST,
    "lenet1998": LENET1998,
    "luo2016": LUO2016,
    "picard2021": PICARD2021,
}

__all__ = ["PAPERS", "Above", "Compared", "OfAll", "Paper", "PerSeed", "Published", "Row", "compare"]
