"""Images as arrays in memory: `info` to plan with, `prepare` once per machine, `load` in every process.

A data set is read and decoded once, into checksummed .npy files (see `cache`), and from then on mapped: processes that train
on the same images share their pages. Training, validation and test images are always separate, and which training images
are held out is a function of `DataConfig.split_seed` alone.

    digits, red_green, red_green:dissimilar     `builtin`
    npz:FILE, folder:DIR                        `npz`, `folder`
    mnist, cifar10, NAME[/CONFIG][:VERSION]     `tfds`: any image classification set of tensorflow-datasets
    package.module:attribute                    a function of a fork, see `builtin`
"""

import dataclasses
import os
import re

import numpy as np

from cnn_jax import private
from cnn_jax.config import DataConfig, UsageError
from cnn_jax.data import builtin, cache, folder, npz, tfds
from cnn_jax.data.builtin import DATASETS
from cnn_jax.data.source import DatasetInfo, Source, describe_raw

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "info", "load", "prepare"]


@dataclasses.dataclass(frozen=True, eq=False)  # == of arrays is an array
class Dataset:
    """Images uint8 (N, H, W, C) and labels int32 (N,), all read-only and mapped from the cache.

    `checksum` is the SHA-256 of the data set as read, before it was divided. Row i of `train_images` is training image
    `train_indices[i]` of the data set as read; likewise for validation.
    """

    info: DatasetInfo
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    train_indices: np.ndarray
    validation_indices: np.ndarray
    checksum: str


def info(config: DataConfig, *, cache_dir: str | os.PathLike | None = None) -> DatasetInfo:
    """Shape, classes and numbers of images, counted after the split, from headers and listings: decodes nothing.

    Two kinds have to be read first: a fork's function that the cache does not hold, and a TFDS set that was never prepared.
    Raises UsageError for all bad input that shows without decoding; `prepare` finds the rest.
    """
    source = find(config.dataset)
    whole = source.describe() if source.describe else _info(_read(config, source, cache_dir, verify=False))
    return _divided(whole, config)


def prepare(config: DataConfig, *, cache_dir: str | os.PathLike | None = None) -> None:
    """Fills the cache, and rebuilds what is damaged in it: every byte is compared with its checksum.

    To be called once before other processes call `load`. Raises UsageError for all bad input.
    """
    _open(config, cache_dir, verify=True)


def load(config: DataConfig, *, cache_dir: str | os.PathLike | None = None) -> Dataset:
    """The images of `config`, mapped from the cache, which is filled if need be. Raises UsageError for all bad input.

    The training images are in the order of a permutation by `split_seed`; the validation images are its head, and a smaller
    `train_examples` keeps less of its tail.
    """
    whole, shuffled = _open(config, cache_dir, verify=False)
    divided = _divided(_info(whole), config)
    held_out = divided.validation_examples
    kept = held_out + divided.train_examples
    images, labels, indices = (shuffled.arrays[k] for k in ("images", "labels", "indices"))
    return Dataset(
        info=divided,
        train_images=images[held_out:kept],
        train_labels=labels[held_out:kept],
        validation_images=images[:held_out],
        validation_labels=labels[:held_out],
        test_images=whole.arrays["test_images"],
        test_labels=whole.arrays["test_labels"],
        train_indices=indices[held_out:kept],
        validation_indices=indices[:held_out],
        checksum=whole.checksum,
    )


def find(dataset: str) -> Source:
    """The source behind the value of --dataset. Raises UsageError if there is none, with the legal values."""
    kind, _, argument = dataset.partition(":")
    if dataset in DATASETS:
        return builtin.source(dataset)
    if kind == "npz":
        return npz.source(argument)
    if kind == "folder":
        return folder.source(argument)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", dataset):
        return builtin.plugin(dataset)
    return tfds.source(dataset)


def _read(config: DataConfig, source: Source, cache_dir: str | os.PathLike | None, verify: bool) -> cache.Entry:
    """The data set as read, before it is divided."""

    def make() -> cache.Made:
        raw = source.read()
        arrays = raw._asdict()
        del arrays["class_names"]
        return arrays, dataclasses.asdict(describe_raw(config.dataset, raw))

    return cache.entry(private.cache_folder(cache_dir), config.dataset, source.identity, make, verify=verify)


def _open(config: DataConfig, cache_dir: str | os.PathLike | None, verify: bool) -> tuple[cache.Entry, cache.Entry]:
    """The data set as read, and its training images shuffled by the split seed: every division is a slice of them."""
    source = find(config.dataset)
    if source.describe:
        _divided(source.describe(), config)  # what is wrong with the division shows before minutes of decoding
    whole = _read(config, source, cache_dir, verify)

    def shuffle() -> cache.Made:
        indices = builtin.order(config.split_seed, len(whole.arrays["train_labels"]))
        images, labels = whole.arrays["train_images"][indices], whole.arrays["train_labels"][indices]
        return {"images": images, "labels": labels, "indices": indices}, None

    identity = ["shuffled", whole.checksum, config.split_seed]
    label = f"{config.dataset}-seed{config.split_seed}"
    return whole, cache.entry(private.cache_folder(cache_dir), label, identity, shuffle, verify=verify)


def _info(whole: cache.Entry) -> DatasetInfo:
    notes = whole.notes
    return DatasetInfo(**notes | {"input_shape": tuple(notes["input_shape"]), "class_names": tuple(notes["class_names"])})


def _divided(whole: DatasetInfo, config: DataConfig) -> DatasetInfo:
    """The same data set after `train_examples` and the validation split."""
    kept = whole.train_examples if config.train_examples is None else config.train_examples
    if not 1 <= kept <= whole.train_examples:
        raise UsageError(f"--train_examples={kept}: legal is 1 to {whole.train_examples}, the images of {whole.name}")
    if not 0 <= config.validation_fraction < 1:
        raise UsageError(f"--validation_fraction={config.validation_fraction}: legal is 0 or more and less than 1")
    if not 0 <= config.split_seed < 2**63:
        raise UsageError(f"--split_seed={config.split_seed}: legal is 0 or more and less than 2**63")
    held_out = round(kept * config.validation_fraction)
    if held_out == kept or (config.validation_fraction and not held_out):
        raise UsageError(
            f"--validation_fraction={config.validation_fraction} holds out {held_out} of {kept} images of {whole.name}: "
            "both parts need one or more (0 is legal and holds out none)"
        )
    return dataclasses.replace(whole, name=config.dataset, train_examples=kept - held_out, validation_examples=held_out)
