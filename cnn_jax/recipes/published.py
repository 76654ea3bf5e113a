"""Recipes as data: sets of flags, with their source.

A fork's recipe is a dict of flags, or a `Recipe`, by package.module:attribute.
"""

import dataclasses
from collections.abc import Mapping

from cnn_jax import plugins
from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import is_attribute


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Flags of a training configuration.

    Attributes:
      source: publication.
      flags: values by flag, in the format of an experiment's DEFAULTS.
      differs: differences from the publication.
    """

    source: str
    flags: Mapping[str, Value]
    differs: str = ""


RECIPES: dict[str, Recipe] = {
    "keras_mnist": Recipe(
        "F. Chollet, Simple MNIST convnet, keras.io/examples/vision/mnist_convnet",
        {
            "model": "simple_convnet",
            "dataset": "mnist",
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "batch_size": 128,
            "epochs": 15,
            "validation_fraction": 0.1,
            "option": {"kernel_init": "glorot_uniform"},
        },
    ),
    "mnist_one_cycle": Recipe(
        "this project: 99.4 % in minutes on CPU",
        {
            "model": "simple_convnet",
            "dataset": "mnist",
            "optimizer": "adam",
            "learning_rate": 3e-3,
            "schedule": "one_cycle",
            "batch_size": 128,
            "epochs": 14,
            "augment": "shift:2+rotate:10",
            "ema": 0.998,
            "validation_fraction": 0.02,
            "option": {"dropout": 0.25},
        },
    ),
    "an2020": Recipe(
        "An, Lee, Park, Yang and So 2020, arXiv 2008.10400, network M3",
        {
            "model": "mnist_m3",
            "dataset": "mnist",
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "schedule": "exponential",
            "batch_size": 120,
            "epochs": 150,
            "augment": "rotate:20+shift:5",
            "ema": 0.999,
            "select": "best",
            # 0.98 per epoch over 150 epochs.
            "option": {"schedule.end": 0.0483},
        },
        "the best epoch is selected on validation images, not on the test set; the rate decays every step, not every epoch",
    ),
    "kayhan2020": Recipe(
        "Kayhan and van Gemert, CVPR 2020, section 3, arXiv 2003.07064",
        {
            "model": "kayhan",
            "dataset": "red_green:published",
            "padding": "valid,same,circular,full",
            "optimizer": "adadelta",
            "learning_rate": 1,
            "weight_decay": 5e-5,
            "batch_size": 200,
            "epochs": 50,
            "select": "best_loss",
            "patience": 9,
            "validation_fraction": 1 / 3,
        },
        "batches are shuffled; the published program uses a fixed order",
    ),
    "lenet1998": Recipe(
        "LeCun, Bottou, Bengio and Haffner 1998, section III",
        {
            "model": "lenet5",
            "dataset": "mnist",
            "optimizer": "sgd",
            "momentum": 0,
            "learning_rate": 0.01,
            "schedule": "exponential",
            "batch_size": 1,
            "epochs": 20,
            # From 5e-4 to 1e-5, the paper's global rates.
            "option": {"schedule.end": 0.02},
        },
        "plain SGD instead of the stochastic diagonal Levenberg-Marquardt method, with a different rate, and cross-entropy "
        "over the distances",
    ),
    "luo2016": Recipe(
        "Luo, Li, Urtasun and Zemel, NeurIPS 2016, arXiv 1701.04128",
        {
            "model": "cnn",
            "dataset": "mnist",
            "filters": "-".join(["8"] * 12),
            "kernel_size": 3,
            "padding": "same",
            "batch_size": 128,
            "epochs": 2,
            "option": {"pool": "none", "head": "gap"},
        },
        "MNIST instead of CIFAR-10 and CamVid, and the layers of one network instead of networks of several depths",
    ),
    "alain2016": Recipe(
        "Alain and Bengio 2016, section 3.5, arXiv 1610.01644",
        {
            "model": "cnn",
            "dataset": "mnist",
            "filters": "32-64",
            "kernel_size": 5,
            "padding": "same",
            "batch_size": 64,
            "epochs": 10,
            "validation_fraction": 1 / 6,
        },
        "no layer of 512 units before the last one, Adam instead of SGD with momentum",
    ),
    "gavrikov2023": Recipe(
        "Gavrikov and Keuper 2023, section 4.3, arXiv 2301.11360",
        {
            "model": "cnn_jax.papers.gavrikov2023:convnet_lc",
            "dataset": "mnist",
            "kernel_size": "3,5,7,9",
            "batch_size": 128,
            "epochs": 5,
            "option": {"optimizer.freeze": "none,spatial"},
        },
        "MNIST instead of CIFAR-10, and two convolutions instead of ResNet-20",
    ),
    "jordan2023": Recipe(
        "Jordan 2023, arXiv 2304.01910",
        {"model": "chapter", "dataset": "mnist", "batch_size": 128, "epochs": "1,16"},
        "the chapter's network on MNIST, 1 and 16 epochs, instead of a ResNet on CIFAR-10, 4 and 64 epochs",
    ),
    "picard2021": Recipe(
        "Picard 2021, arXiv 2109.08203",
        {"model": "chapter", "dataset": "mnist", "batch_size": 128, "epochs": 1},
        "the chapter's network on MNIST instead of a ResNet of 9 layers on CIFAR-10",
    ),
    "airbench94": Recipe(
        "Jordan 2024, arXiv 2404.00498, airbench94: SGD, triangular rate, label smoothing, flips and crops",
        {
            "model": "cnn",
            "filters": "64-64-256-256-256-256",
            "kernel_size": 3,
            "padding": "same",
            "activation": "gelu",
            "optimizer": "sgd",
            "momentum": 0.85,
            "learning_rate": 0.2,
            "weight_decay": 0.0013,
            "schedule": "one_cycle",
            "label_smoothing": 0.2,
            "augment": "flip+crop:2",
            "normalize": "per_channel",
            "batch_size": 1024,
            "epochs": 10,
            "option": {
                "norm": "batch",
                "blocks_per_pool": 2,
                "head": "gmp",
                "optimizer.nesterov": 1,
                "schedule.peak": 0.23,
                "schedule.start_factor": 0.2,
                "schedule.final_factor": 0.07,
            },
        },
        "no whitening layer, Lookahead, alternating flips or mirrored test images; cosine instead of triangular rate and a "
        "rate of 0.2 instead of 1.5, because norm biases have no higher rate",
    ),
}


def load(name: str) -> Recipe:
    """Return a recipe by name, or a fork's recipe.

    Raises:
      UsageError: unknown name, or an attribute that is not a recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not is_attribute(name):
        raise UsageError(f"--recipe: unknown recipe {name!r}: must be one of {', '.join(RECIPES)}, or package.module:attribute")
    found = plugins.load_attribute(name, f"--recipe: {name}")
    if isinstance(found, Mapping):
        return Recipe(name, found)
    if not isinstance(found, Recipe):
        raise UsageError(f"--recipe: {name} is a {type(found).__name__}: it must be a dict of flags or a Recipe")
    return found


def merged(recipe: Mapping[str, Value], defaults: Mapping[str, Value]) -> dict[str, Value]:
    """Return the flags of a recipe, overridden by the DEFAULTS of an experiment; options are merged."""
    options = {**_as_dict(recipe.get("option", {})), **_as_dict(defaults.get("option", {}))}
    return {**recipe, **defaults} | ({"option": options} if options else {})


def _as_dict(options: Value) -> dict[str, Value]:
    """Convert `option` of DEFAULTS (a string, a list of strings or a dict) to a dict."""
    if isinstance(options, Mapping):
        return dict(options)
    texts = [options] if isinstance(options, str) else list(options)
    return dict(text.partition("=")[::2] for text in texts)
