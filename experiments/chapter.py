"""Does the chapter "Convolution Layers & CNNs" hold? Each of its sentences, measured on your data, with a verdict.

    python launch.py chapter                     30 trials on digits
    python launch.py chapter --dataset=mnist

Prints the verdicts, and writes chapter.csv and chapter.html, with a picture for every sentence. What is measured stands in
docs/chapter.md.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import data, stats, sweep
from cnn_jax.cli.flags import Request
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import is_training_option
from cnn_jax.trial import DataConfig, Trial

DEFAULTS = {"model": "cnn,mlp", "filters": "4,32,8-16-32,16-32-64", "padding": "valid,same"}


def trials(request: Request) -> list[Trial]:
    """Convnets of one layer as in the chapter and of three, dense networks of their sizes, one without max pooling, LeNet-5."""
    found = request.product()
    for config in dict.fromkeys(trial.data for trial in found):
        _check(config)
    if len({trial.data for trial in found}) > 1:
        raise UsageError(
            "experiment 'chapter': asks its questions of one data set at a time: give one value of each flag of the data"
        )
    if "padding" not in request.axes:  # the chapter's layer has none; three layers of it would leave nothing of 8x8 images
        found = [trial for trial in found if (trial.model.padding == "same") == (len(trial.model.filters or ()) > 1)]
    if "model" in request.axes:
        return found
    single = [trial.model.filters for trial in found if len(trial.model.filters or ()) == 1]
    if single and "pool" not in request.options:
        axes = request.axes | {"model": ["cnn"], "filters": [max(filter(None, single))]}
        defaults = request.defaults | ({} if "padding" in request.axes else {"padding": ["valid"]})
        options = request.options | {"pool": ["stride"]}
        found += dataclasses.replace(request, axes=axes, defaults=defaults, options=options).product()
    axes = {name: values for name, values in request.axes.items() if sweep.AXES[name].part != "model"}
    options = {name: values for name, values in request.options.items() if is_training_option(name)}
    return found + dataclasses.replace(request, axes=axes | {"model": ["lenet5_dense"]}, defaults={}, options=options).product()


def _check(config: DataConfig) -> None:
    shape = data.info(config).input_shape
    if len(shape) != 3:
        raise UsageError(
            f"experiment 'chapter': is about images: {config.dataset} has shape {shape}, not (height, width, channels)"
        )


def conclude(folder: Path, records: Sequence[stats.Record], console: Console) -> None:
    """Measure the sentences on the trained networks; print the verdicts and write them, with their pictures."""
    from cnn_jax.chapter import conclude

    conclude(folder, records, console)


if __name__ == "__main__":
    from cnn_jax import cli

    cli.main(__name__)
