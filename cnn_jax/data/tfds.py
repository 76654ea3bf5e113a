"""Image classification sets of tensorflow-datasets, by name: mnist, cifar10, NAME[/CONFIG][:VERSION].

A prepared set is planned from its JSON files and read without TensorFlow. *Preparing* a set needs TensorFlow, once. Records are
read through `as_data_source` (ArrayRecord, the format used here) or, for sets in TFDS's default format, as plain TFRecord.
Images are decoded by `images`, with its limits: 70,000 of MNIST in 6.5 s (iterating TFDS's data source: 21 s).
"""

import contextlib
import difflib
import importlib.util
import io
import json
import logging
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.data import images
from cnn_jax.data.builtin import DATASETS
from cnn_jax.data.source import DatasetInfo, Raw, Source, check_memory, files_identity
from cnn_jax.errors import UsageError

_NAME = re.compile(r"(?P<path>(?P<set>\w+)(/(?P<config>[\w.-]+))?)(:(?P<version>\d+\.\d+\.\d+))?")
_KINDS = (
    f"must be one of {', '.join(DATASETS)}, npz:FILE, folder:DIR, package.module:function, names of TFDS (mnist, cifar10 ...)"
)

_TENSORFLOW = (
    "{what} is not in {folder}, and preparing it needs TensorFlow, once: pip install tensorflow, then rerun the command; "
    "or set TFDS_DATA_DIR to a folder with the prepared set"
)
_BATCH = 1000  # records read at a time


class _Features(NamedTuple):
    image: str  # keys of the example
    label: str
    shape: tuple[int, int, int]
    num_classes: int


def source(name: str, image_size: int | None = None) -> Source:
    """Return a TFDS set by name; without a version, the newest prepared one. Prepares it if necessary and possible.

    Images are resized to `image_size`, if given. Raises UsageError for unknown names, sets without images and labels, images of
    different sizes without `image_size`, and sets that cannot be prepared.
    """
    what = f"--dataset={name}"
    if not (match := _NAME.fullmatch(name)):
        raise UsageError(f"{what} is not a data set: {_KINDS}")
    folder = _newest(_data_dir() / match["path"], match["version"]) or _prepared(
        what, name, match["set"], match["config"], image_size
    )
    try:
        identity = ["tfds", *files_identity(folder, (f for f in folder.iterdir() if f.is_file()))]
    except OSError as error:
        raise UsageError(f"{what}: {error.filename} cannot be read ({error.strerror})") from error
    return Source(
        identity, read=lambda: _read(what, folder, image_size), describe=lambda: _describe(what, folder, image_size)[0]
    )


def _data_dir() -> Path:
    """Return the data folder of TFDS, by its own rule."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _newest(folder: Path, version: str | None) -> Path | None:
    """Return the folder of `version`, or of the newest one, of a set; None if it is not prepared."""
    prepared = [f.parent for f in folder.glob("*/dataset_info.json") if re.fullmatch(r"\d+\.\d+\.\d+", f.parent.name)]
    wanted = [f for f in prepared if version in (None, f.name)]
    return max(wanted, key=lambda f: tuple(map(int, f.name.split("."))), default=None)


def _prepared(what: str, name: str, set_name: str, config: str | None, image_size: int | None) -> Path:
    """Return the folder of a set, with its name resolved by TFDS; prepare it if TensorFlow is installed."""
    try:
        with _quiet():
            tfds = _import_tfds(what)
            known = tfds.list_builders(with_community_datasets=False)
            if set_name not in known:
                close = difflib.get_close_matches(name, [*DATASETS, *known], n=3)
                raise UsageError(
                    f"{what} is not a data set{', close names are ' + ', '.join(close) if close else ''}: {_KINDS}"
                )
            configs = list(tfds.builder_cls(set_name).builder_configs)
            if config and config not in configs:
                raise UsageError(f"{what}: {set_name} has no {config}; it has {', '.join(configs) or 'no configs'}")
            builder = tfds.builder(name)
        if not builder.is_prepared():
            from google.protobuf import json_format

            _features(what, json.loads(json_format.MessageToJson(builder.info.features.to_proto())), image_size)
            if importlib.util.find_spec("tensorflow") is None:
                raise UsageError(_TENSORFLOW.format(what=what, folder=_data_dir()))
            with _without_warnings():  # dozens without a network; progress bars are kept
                builder.download_and_prepare(file_format="array_record")
    except UsageError:
        raise
    except ImportError as error:
        if error.name in (None, "tensorflow"):  # TFDS wraps the error of a set whose definition itself imports TensorFlow
            raise UsageError(_TENSORFLOW.format(what=what, folder=_data_dir())) from error
        raise UsageError(f"{what} needs {error.name}, once, to be prepared: pip install {error.name}") from error
    except Exception as error:  # downloads, checksums, wrong versions and configs raise different types
        raise UsageError(f"{what}: TFDS reports: {' '.join(str(error).split())[:300]}") from error
    return Path(builder.data_dir)


def _import_tfds(what: str) -> ModuleType:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UsageError(f"{what} needs the package {error.name}: pip install {error.name}; otherwise {_KINDS}") from error
    return tensorflow_datasets


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress TFDS's log messages below errors."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Also suppress TFDS's output: a banner without TensorFlow."""
    with _without_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _describe(what: str, folder: Path, image_size: int | None) -> tuple[DatasetInfo, _Features, str, dict]:
    """Read the folder's JSON; also return the name of the test split: 'test', or else 'validation'."""
    try:
        about = json.loads((folder / "dataset_info.json").read_bytes())
        features = _features(what, json.loads((folder / "features.json").read_bytes()), image_size)
        sizes = {s["name"]: sum(map(int, s.get("shardLengths", ()))) for s in about["splits"]}
        labels = folder / f"{features.label}.labels.txt"
        names = tuple(labels.read_text().split("\n")[: features.num_classes]) if labels.exists() else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{what}: the JSON files in {folder} cannot be read: {error}") from error
    test = "test" if sizes.get("test") else "validation"
    if not sizes.get("train") or not sizes.get(test):
        raise UsageError(f"{what} has the splits {', '.join(sizes)}: a train split and a test or validation split are needed")
    if len(names) != features.num_classes:
        names = tuple(map(str, range(features.num_classes)))
    name = what.removeprefix("--dataset=")
    shape = (image_size or features.shape[0], image_size or features.shape[1], features.shape[2])
    info = DatasetInfo(name, shape, features.num_classes, sizes["train"], sizes[test], names)
    return info, features, test, about


def _features(what: str, spec: dict, image_size: int | None) -> _Features:
    """Find the image and the label of a set by their types in its feature spec (features.json)."""
    parts = spec.get("featuresDict", {}).get("features", {})
    pictures = [key for key, part in parts.items() if "image" in part]
    labels = [key for key, part in parts.items() if "classLabel" in part]
    if len(pictures) != 1 or not labels:
        raise UsageError(
            f"{what} is not an image classification set such as mnist: its features are {', '.join(parts) or 'empty'}"
        )
    # cifar100 has 'label' and 'coarse_label': in sets with several labels, TFDS names the target 'label'.
    label = labels[0] if len(labels) == 1 else "label"
    if label not in labels:
        raise UsageError(f"{what} has several labels ({', '.join(labels)}) and none of them is named 'label'")
    image = parts[pictures[0]]["image"]
    shape = tuple(int(d) for d in image.get("shape", {}).get("dimensions", ()))
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or image.get("dtype", "uint8") != "uint8":
        raise UsageError(
            f"{what} has images of shape {shape} {image.get('dtype', '')}: must be 8-bit images of 1, 3 or 4 channels"
        )
    if min(shape) < 1 and image_size is None:
        raise UsageError(
            f"{what} has images of shape {shape}, not all of the same size: use --image_size=N to resize them to N x N"
        )
    return _Features(pictures[0], label, shape, int(parts[label]["classLabel"]["numClasses"]))


def _read(what: str, folder: Path, image_size: int | None) -> Raw:
    info, features, test, about = _describe(what, folder, image_size)
    check_memory(what, (info.train_examples + info.test_examples) * int(np.prod(info.input_shape)))

    def part(split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        x_NHWC, y_N, i = np.empty((n, *info.input_shape), np.uint8), np.empty(n, np.int32), -1
        for i, example in enumerate(_examples(what, folder, split, features.image, about)):
            x = images.decode(io.BytesIO(example[features.image]), f"{what}: image {i} of {split}", features.shape[2])
            as_told = all(told in (-1, found) for told, found in zip(features.shape, x.shape, strict=True))
            if i >= n or not as_told or not 0 <= example[features.label] < features.num_classes:
                raise UsageError(f"{what}: image {i} of {split} in {folder} does not match its JSON: prepare the set again")
            x_NHWC[i], y_N[i] = images.resize(x, image_size) if image_size else x, example[features.label]
        if i + 1 != n:
            raise UsageError(f"{what}: {folder} holds {i + 1} of {n} images of {split}: prepare the set again")
        return x_NHWC, y_N

    with _quiet():
        return Raw(*part("train", info.train_examples), *part(test, info.test_examples), info.class_names)


def _examples(what: str, folder: Path, split: str, image: str, about: dict) -> Iterator[dict[str, Any]]:
    """Yield the examples of a split in TFDS's order, with encoded images."""
    tfds = _import_tfds(what)
    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        builder = tfds.builder_from_directory(folder)
        if about.get("fileFormat") == "array_record":
            records = builder.as_data_source(split=split, decoders=decoders)
            for start in range(0, len(records), _BATCH):  # reading one by one takes four times as long
                yield from records.__getitems__(range(start, min(start + _BATCH, len(records))))
        else:
            for file in builder.info.splits[split].filepaths:
                for record in _tfrecords(Path(file)):
                    yield builder.info.features.deserialize_example_np(record, decoders=decoders)
    except UsageError:
        raise
    except ImportError as error:
        raise UsageError(f"{what} needs the package {error.name}: pip install {error.name}") from error
    except Exception as error:  # damaged files raise many types
        raise UsageError(f"{what}: {folder} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _tfrecords(file: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord: length (8 bytes, little-endian), its checksum (4), that many bytes, their checksum (4).

    The masked CRC-32C are not verified: encoded images have checksums or fail to decode.
    """
    with open(file, "rb") as stream:
        while head := stream.read(12):
            (length,) = struct.unpack("<Q", head[:8])
            record = stream.read(length + 4)[:-4]
            if len(record) != length:
                raise ValueError(f"{file.name} is truncated")
            yield record
