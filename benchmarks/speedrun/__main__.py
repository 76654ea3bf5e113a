"""Accuracy and training time of a CIFAR-10 network with airbench94's recipe (Jordan 2024, arXiv 2404.00498).

    python -m benchmarks.speedrun --dataset=cifar10 --runs=5
    python -m benchmarks.speedrun --dataset=cifar10 --runs=5 --peer      # the same recipe and images in PyTorch

Compilation is timed separately. A run is timed from images on the device to predictions for the test images: whitening,
training, and evaluation over six views. Convolutions are computed in bfloat16 on an accelerator, in float32 on CPU. Nothing
here has been measured on a GPU yet.

Differences from the source: parameters, logits and loss are float32 also on accelerators; running variances are those of the
batch, without the factor n / (n - 1); pixels are normalized by the mean and deviation of the training images.
"""

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contenders
from benchmarks.speedrun import training
from benchmarks.speedrun.network import Net
from benchmarks.speedrun.recipe import Recipe
from cnn_jax import data
from cnn_jax.errors import UsageError
from cnn_jax.trial import DataConfig

EVALUATED = 2000  # test images per batch


@dataclasses.dataclass(frozen=True)
class Result:
    """Measurements, a value per run; `compile_seconds` None without compilation."""

    device: str
    by_views: Sequence[float]  # test accuracy with six views of an image
    by_one: Sequence[float]  # with the image only
    seconds: Sequence[float]
    compile_seconds: float | None = None


def ours(images: data.Dataset, recipe: Recipe, widths: tuple[int, ...], seeds: Sequence[int]) -> Result:
    """Train and evaluate with each seed."""
    mean, deviation = images.train_images.mean((0, 1, 2)), images.train_images.std((0, 1, 2))
    x, u = (((a - mean) / deviation).astype(np.float32) for a in (images.train_images, images.test_images))
    net = Net(widths, images.info.num_classes, jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    x_NHWC, y_N = jax.device_put((x, images.train_labels))
    cuts = range(0, len(u), EVALUATED)
    pieces = jax.device_put([(u[i : i + EVALUATED], images.test_labels[i : i + EVALUATED]) for i in cuts])

    began = time.perf_counter()
    train = training.train.lower(net, recipe, jax.random.key(0), x_NHWC, y_N).compile()
    trained = jax.eval_shape(lambda *arrays: training.train(net, recipe, *arrays), jax.random.key(0), x_NHWC, y_N)
    correct = [training.correct.lower(net, trained, *piece).compile() for piece in pieces]
    compile_seconds = time.perf_counter() - began

    seconds, accuracies = [], []
    for seed in seeds:
        began = time.perf_counter()
        found = train(jax.random.key(seed), x_NHWC, y_N)
        counts = np.array([count(found, *piece) for count, piece in zip(correct, pieces, strict=True)])
        seconds.append(time.perf_counter() - began)
        accuracies.append(counts.sum(0) / len(u))
    by_views, by_one = np.array(accuracies).T.tolist()
    return Result(jax.devices()[0].device_kind, by_views, by_one, seconds, compile_seconds)


def peer(images: data.Dataset, recipe: Recipe, widths: tuple[int, ...], seeds: Sequence[int]) -> Result:
    """Train and evaluate in PyTorch, on a GPU if available. Raises UsageError if PyTorch is not installed."""
    python = contenders.interpreter("pytorch")
    if python is None:
        raise UsageError("--peer: needs the package torch: `make bench` installs requirements-bench.txt")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "images.npz"
        train, test = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
        np.savez(file, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
        settings = {
            "seeds": ",".join(map(str, seeds)),
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "widths": ",".join(map(str, widths)),
        }
        script = contenders.ROOT / "benchmarks" / "peers" / "airbench_loop.py"
        done = subprocess.run([python, str(script), str(file), *contenders.flags(settings)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    found = json.loads(done.stdout.splitlines()[-1])
    by_views, by_one, seconds = ([run[name] for run in found["runs"]] for name in ("by_views", "by_one", "seconds"))
    return Result(f"{found['device']}, PyTorch", by_views, by_one, seconds)


def accuracy(what: str, values: Sequence[float]) -> str:
    """Format mean, standard deviation and all values."""
    deviation = f" (sd {statistics.stdev(values):.4f})" if len(values) > 1 else ""
    return f"test accuracy, {what}: {statistics.fmean(values):.4f}{deviation}: " + " ".join(f"{v:.4f}" for v in values)


def filters(text: str, size: int) -> tuple[int, ...]:
    """Parse the widths of the groups. Raises UsageError for other text, and for more groups than `size` can be halved."""
    widths = tuple(int(width) if width.isdecimal() else 0 for width in text.split(","))
    if min(widths) < 1 or (size - 1) >> len(widths) < 1:
        raise UsageError(f"--widths={text}: must be numbers of filters, for at most {(size - 1).bit_length() - 1} groups")
    return widths


def main(argv: list[str] | None = None) -> None:
    """Train `--runs` networks; print accuracies and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10", help="as in launch.py; colour images of 16x16 or more")
    parser.add_argument("--images", type=int, help="training images; default: all")
    parser.add_argument("--epochs", type=float, default=Recipe.epochs)
    parser.add_argument("--batch_size", type=int, default=Recipe.batch_size)
    parser.add_argument("--widths", default="64,256,256", help="filters of the groups")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--peer", action="store_true", help="train with PyTorch, by peers/airbench_loop.py")
    args = parser.parse_args(argv)
    try:
        for flag in ("epochs", "runs"):
            if not 0 < (value := getattr(args, flag)) < math.inf:
                raise UsageError(f"--{flag}={value}: must be above 0")
        images = data.load(DataConfig(args.dataset, validation_fraction=0.0, train_examples=args.images))
        count, shape = len(images.train_labels), images.info.input_shape
        if min(shape[:2]) < 16:
            raise UsageError(f"--dataset={args.dataset}: images must be 16x16 or larger, not {shape}")
        if not 1 <= args.batch_size <= count:
            raise UsageError(f"--batch_size={args.batch_size}: must be between 1 and {count}, the training images")
        recipe, widths = Recipe(count, args.batch_size, args.epochs), filters(args.widths, min(shape[:2]))
        seeds = range(args.first_seed, args.first_seed + args.runs)
        result = (peer if args.peer else ours)(images, recipe, widths, seeds)
    except UsageError as error:
        sys.exit(f"error: {error}")
    print(f"{args.dataset}: {args.runs} runs of {recipe.steps} steps of {args.batch_size} images, {result.device}")
    print(accuracy("six views", result.by_views))
    print(accuracy("one view", result.by_one))
    compiling = f", and {result.compile_seconds:.1f} s to compile, once" if result.compile_seconds is not None else ""
    print(f"{statistics.median(result.seconds):.2f} s a run (median){compiling}")


if __name__ == "__main__":
    main()
