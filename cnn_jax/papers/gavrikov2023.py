"""Gavrikov and Keuper 2023: gain of learned spatial kernels over frozen random ones, by kernel size."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cnn_jax import stats
from cnn_jax.nn import Activation, BatchNorm, Conv, Dense, GlobalAvgPool, Layer, MaxPool, Spec
from cnn_jax.papers.paper import Above, Paper, PerSeed, Row


def convnet_lc(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    filters: tuple[int, ...] = (16, 16),
    kernel_size: tuple[int] = (3,),
    expansion: int = 1,
) -> Spec:
    """Build spatial convolutions, each followed by a linear combination, a 1x1 convolution (section 3 of the paper).

    Args:
      input_shape: (*S, C).
      num_classes: logits per image.
      filters: filters of each linear combination.
      kernel_size: kernel size of the spatial convolutions.
      expansion: spatial filters per filter of the linear combination.
    """
    layers: list[Layer] = []
    for f in filters:
        layers.append(Conv(expansion * f, kernel_size[0], padding="same", use_bias=False, kernel_init="he_uniform"))
        layers += [Conv(f, 1, use_bias=False, kernel_init="he_uniform"), BatchNorm(), Activation("relu"), MaxPool(2)]
    return (*layers, GlobalAvgPool(), Dense(num_classes))


def gaps(records: Sequence[stats.Record]) -> dict[int, float]:
    """Compute test accuracy with learned minus that with frozen spatial kernels for one seed, by kernel size."""
    found: dict[tuple[int, str], float] = {}
    for record in records:
        levels = stats.flat(record["config"])
        found[int(levels["kernel_size"]), str(levels.get("optimizer.freeze", "none"))] = record["test_accuracy"]
    sizes = sorted({size for size, _ in found})
    return {k: found[k, "none"] - found[k, "spatial"] for k in sizes if (k, "none") in found and (k, "spatial") in found}


def _of_gaps(function: Callable[[Mapping[int, float]], float], least: int = 1) -> PerSeed:
    """Return a measure of one seed: a function of its gaps; None with fewer than `least` kernel sizes."""

    def measure(folder: Path, records: Sequence[stats.Record]) -> float | None:
        found = gaps(records)
        return function(found) if len(found) >= least else None

    return PerSeed(measure)


GAVRIKOV2023 = Paper(
    "The Power of Linear Combinations: Learning with Random Convolutions (Gavrikov, Keuper 2023)",
    "section 4.3, figure 8a; arXiv 2301.11360",
    "gavrikov2023",
    (
        Row("learned minus frozen, smallest kernel", {}, _of_gaps(lambda gap: gap[min(gap)]), Above()),
        Row("learned minus frozen, largest kernel", {}, _of_gaps(lambda gap: gap[max(gap)]), Above()),
        Row("largest minus smallest kernel", {}, _of_gaps(lambda gap: gap[max(gap)] - gap[min(gap)], least=2), Above()),
    ),
    margin=0.005,
    seeds=4,
    quick={"seeds": "3", "epochs": "2", "kernel_size": "3,9", "filters": "8-8", "train_examples": "4000"},
    note="Published: the gap grows with kernel sizes of 3, 5, 7 and 9 (ResNet-20 on CIFAR-10, four runs).",
)
