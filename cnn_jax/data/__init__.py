"""Images as arrays in memory: `info` for planning, `prepare` once per machine, `load` in every process.

A data set is read and decoded once, into checksummed .npy files (see `cache`), and memory-mapped afterwards: processes that
train on the same images share memory. Training, validation and test images are always separate, and the held-out training
images depend on `DataConfig.split_seed` only.

    digits, red_green[:KIND]                    `builtin`, `red_green`
    npz:FILE, folder:DIR                        `npz`, `folder`
    mnist, cifar10, NAME[/CONFIG][:VERSION]     `tfds`: any image classification set of tensorflow-datasets
    package.module:attribute                    a function of a fork, see `builtin`
"""

import dataclasses
import math
import os
import re

import numpy as np

from cnn_jax import cache_folder
from cnn_jax.data import builtin, cache, folder, images, npz, tfds, warn
from cnn_jax.data.builtin import DATASETS
from cnn_jax.data.normalization import UNIT, Normalization, channel_statistics
from cnn_jax.data.order import order
from cnn_jax.data.source import DatasetInfo, Raw, Source, check_memory, check_scales, describe_raw
from cnn_jax.errors import UsageError
from cnn_jax.trial import NORMALIZATIONS, DataConfig

__all__ = ["DATASETS", "UNIT", "Dataset", "DatasetInfo", "Normalization", "info", "load", "prepare", "warnings"]


@dataclasses.dataclass(frozen=True, eq=False)  # == of arrays is an array
class Dataset:
    """Images uint8 (N, H, W, C) and labels int32 (N,), all read-only and mapped from the cache.

    `checksum` is the SHA-256 of the data set as read, before the split. Row i of `train_images` is training image
    `train_indices[i]` of the data set as read; likewise for validation. `normalization` converts images to a network's input.
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
    normalization: Normalization = UNIT


def info(config: DataConfig, *, cache_dir: str | os.PathLike | None = None) -> DatasetInfo:
    """Return shape, classes and numbers of images after the split, from headers and listings, without decoding.

    Two kinds must be read first: a fork's function that is not cached, and a TFDS set that is not prepared. Raises UsageError
    for invalid input that is detectable without decoding; `prepare` detects the rest.
    """
    source = _source(config)
    whole = _described(source, config) or _info(_read(config, source, cache_dir, verify=False))
    return _divided(whole, config)


def warnings(config: DataConfig, *, cache_dir: str | os.PathLike | None = None) -> list[str]:
    """Return a sentence for each valid but suspicious property of the data, and for skipped files.

    Complete after `prepare`. Before that, a folder is checked by its first images, and a TFDS set not at all. Raises UsageError
    as in `info`.
    """
    source = _source(config)
    entry = cache.find(cache_folder.cache_folder(cache_dir), config.dataset, _identity(source, config))
    found = entry.notes["warnings"] if entry else source.warnings()
    return [f"--dataset={config.dataset}: {line}" for line in (*source.notes, *found)]


def prepare(config: DataConfig, *, cache_dir: str | os.PathLike | None = None) -> None:
    """Fill the cache and rebuild damaged entries; all checksums are verified.

    Call once before other processes call `load`. Raises UsageError for invalid input.
    """
    whole, shuffled = _open(config, cache_dir, verify=True)
    _normalization(config, whole, shuffled, cache_dir, verify=True)


def load(config: DataConfig, *, cache_dir: str | os.PathLike | None = None) -> Dataset:
    """Map the images of `config` from the cache, filling it if necessary. Raises UsageError for invalid input.

    The training images are permuted by `split_seed`; the validation images are the first ones, and a smaller `train_examples`
    drops images from the end.
    """
    whole, shuffled = _open(config, cache_dir, verify=False)
    divided = _divided(_info(whole), config)
    held_out, kept = _bounds(divided)
    images_NHWC, labels, indices = (shuffled.arrays[k] for k in ("images", "labels", "indices"))
    return Dataset(
        info=divided,
        train_images=images_NHWC[held_out:kept],
        train_labels=labels[held_out:kept],
        validation_images=images_NHWC[:held_out],
        validation_labels=labels[:held_out],
        test_images=whole.arrays["test_images"],
        test_labels=whole.arrays["test_labels"],
        train_indices=indices[held_out:kept],
        validation_indices=indices[:held_out],
        checksum=whole.checksum,
        normalization=_normalization(config, whole, shuffled, cache_dir, verify=False),
    )


def find(dataset: str, split_seed: int = 0, image_size: int | None = None) -> Source:
    """Return the source for a value of --dataset.

    `split_seed` draws the test set of a folder that has none; folders and TFDS sets decode to `image_size`, if given. Raises
    UsageError for an unknown data set, with the legal values.
    """
    kind, colon, argument = dataset.partition(":")
    if dataset in DATASETS:
        return builtin.source(dataset)
    if kind == "npz":
        return npz.source(argument)
    if kind == "folder" and colon:
        return folder.source(argument, split_seed, image_size)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", dataset):
        return builtin.plugin(dataset)
    return tfds.source(dataset, image_size)


_MAX_SIZE = math.isqrt(images.MAX_PIXELS)


def _source(config: DataConfig) -> Source:
    if config.image_size is not None and not 1 <= config.image_size <= _MAX_SIZE:
        raise UsageError(f"--image_size={config.image_size}: must be between 1 and {_MAX_SIZE}")
    return find(config.dataset, config.split_seed, config.image_size)


def _identity(source: Source, config: DataConfig) -> list[object]:
    """Return the identity of the cache entry of the data set as read and resized."""
    return [*source.identity, *(["image_size", config.image_size] if config.image_size else [])]


def _described(source: Source, config: DataConfig) -> DatasetInfo | None:
    """Return the description of the resized images without reading them; None if they must be read."""
    if source.describe is None:
        return None
    found, size = source.describe(), config.image_size
    return dataclasses.replace(found, input_shape=(size, size, found.input_shape[-1])) if size else found


def _read(config: DataConfig, source: Source, cache_dir: str | os.PathLike | None, verify: bool) -> cache.Entry:
    """Read and resize the data set, before the split."""
    what = f"--dataset={config.dataset}"

    def make() -> cache.Made:
        raw = source.read()
        check_scales(f"{what}: the training part", raw.train_images, f"{what}: the test part", raw.test_images)
        found = warn.of_raw(raw)
        if config.image_size:
            raw = _resized(what, raw, config.image_size)
        arrays = raw._asdict()
        del arrays["class_names"]
        return arrays, {"info": dataclasses.asdict(describe_raw(config.dataset, raw)), "warnings": found}

    return cache.entry(cache_folder.cache_folder(cache_dir), config.dataset, _identity(source, config), make, verify=verify)


def _resized(what: str, raw: Raw, size: int) -> Raw:
    """Resize every image to (size, size). Raises UsageError if they exceed the memory of this machine."""
    parts = raw.train_images, raw.test_images
    check_memory(what, sum(len(part) for part in parts) * size * size * parts[0].shape[-1])
    train, test = (images.resize_all(part, size) for part in parts)
    return raw._replace(train_images=train, test_images=test)


def _open(config: DataConfig, cache_dir: str | os.PathLike | None, verify: bool) -> tuple[cache.Entry, cache.Entry]:
    """Open the data set as read, and its training images shuffled by the split seed; every split is a slice of these."""
    source = _source(config)
    if described := _described(source, config):
        _divided(described, config)  # report an invalid split before minutes of decoding
    whole = _read(config, source, cache_dir, verify)

    def shuffle() -> cache.Made:
        indices = order(config.split_seed, len(whole.arrays["train_labels"]))
        parts = {"images": whole.arrays["train_images"][indices], "labels": whole.arrays["train_labels"][indices]}
        return {**parts, "indices": indices}, None

    identity = ["shuffled", whole.checksum, config.split_seed]
    label = f"{config.dataset}-seed{config.split_seed}"
    return whole, cache.entry(cache_folder.cache_folder(cache_dir), label, identity, shuffle, verify=verify)


def _normalization(
    config: DataConfig, whole: cache.Entry, shuffled: cache.Entry, cache_dir: str | os.PathLike | None, verify: bool
) -> Normalization:
    """Return the normalization of a trial, with statistics of its training images, without the validation images."""
    if config.normalize != "per_channel":
        return Normalization(config.normalize)
    held_out, kept = _bounds(_divided(_info(whole), config))

    def make() -> cache.Made:
        mean, std = channel_statistics(shuffled.arrays["images"][held_out:kept])
        return {"mean": mean, "std": std}, None

    identity = ["channel statistics", whole.checksum, config.split_seed, held_out, kept]
    label = f"{config.dataset}-statistics"
    arrays = cache.entry(cache_folder.cache_folder(cache_dir), label, identity, make, verify=verify).arrays
    return Normalization("per_channel", tuple(arrays["mean"].tolist()), tuple(arrays["std"].tolist()))


def _bounds(divided: DatasetInfo) -> tuple[int, int]:
    """Return first and last (exclusive) index of the training images among the shuffled ones, after the validation images."""
    return divided.validation_examples, divided.validation_examples + divided.train_examples


def _info(whole: cache.Entry) -> DatasetInfo:
    notes = whole.notes["info"]
    return DatasetInfo(**notes | {"input_shape": tuple(notes["input_shape"]), "class_names": tuple(notes["class_names"])})


def _divided(whole: DatasetInfo, config: DataConfig) -> DatasetInfo:
    """Return the description after `train_examples` and the validation split."""
    kept = whole.train_examples if config.train_examples is None else config.train_examples
    if not 1 <= kept <= whole.train_examples:
        raise UsageError(f"--train_examples={kept}: must be between 1 and {whole.train_examples}, the images of {whole.name}")
    if not 0 <= config.validation_fraction < 1:
        raise UsageError(f"--validation_fraction={config.validation_fraction}: must be at least 0 and below 1")
    if not 0 <= config.split_seed < 2**63:
        raise UsageError(f"--split_seed={config.split_seed}: must be at least 0 and below 2**63")
    if config.normalize not in NORMALIZATIONS:
        raise UsageError(f"--normalize={config.normalize}: must be one of {', '.join(NORMALIZATIONS)}")
    held_out = round(kept * config.validation_fraction)
    if held_out == kept or (config.validation_fraction and not held_out):
        raise UsageError(
            f"--validation_fraction={config.validation_fraction} holds out {held_out} of {kept} images of {whole.name}: "
            "both parts need at least one (0 holds out none)"
        )
    return dataclasses.replace(whole, name=config.dataset, train_examples=kept - held_out, validation_examples=held_out)
