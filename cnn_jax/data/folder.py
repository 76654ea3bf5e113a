"""folder:DIR: images in DIR/train/CLASS/ and DIR/test/CLASS/, or in DIR/CLASS/ with a test set drawn from each class.

Classes are numbered in the order of their sorted names. Files and folders whose names start with a dot are skipped; files
without one of the `SUFFIXES` are skipped and counted.
"""

import collections
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cnn_jax.data import images, warn
from cnn_jax.data.source import DatasetInfo, Raw, Source, check_memory, files_identity
from cnn_jax.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
TEST_SHARE = 0.2  # share of each class, if the folder has no test set
_LAYOUT = "must be DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, or DIR/CLASS/*.png"

_PARTS = ("train", "test")
Files = dict[str, dict[str, list[Path]]]  # by part, 'train' and 'test', and class; all sorted


def source(directory: str, split_seed: int = 0, image_size: int | None = None) -> Source:
    """Return the data set in a folder; images are resized to `image_size`, if given.

    A folder without DIR/train and DIR/test is split by `split_seed`: see `divide`. Raises UsageError for any other layout, a
    class in only one part, and an empty class.
    """
    what, home = f"--dataset=folder:{directory}", Path(directory).expanduser()
    if not directory:
        raise UsageError(f"{what} is not a folder: {_LAYOUT}")
    skipped: collections.Counter[str] = collections.Counter()
    try:
        if _is_divided(home):
            files = {part: _classes(what, home / part, skipped) for part in _PARTS}
            skipped.update(_kind(entry) for entry in _visible(home) if entry.name not in _PARTS)
            identity: list[object] = ["folder"]
        else:
            files = divide(what, _classes(what, home, skipped), split_seed)
            identity = ["folder, divided", TEST_SHARE, split_seed]
        identity += files_identity(home, (f for part in files.values() for c in part.values() for f in c))
    except OSError as error:
        raise UsageError(f"{what}: {error.filename} cannot be read ({error.strerror}): {_LAYOUT}") from error
    _check_classes(what, home, files)
    return Source(
        identity,
        read=lambda: _read(what, home, files, image_size),
        describe=lambda: _describe(what, home, files, image_size),
        notes=_notes(skipped),
        warnings=lambda: warn.of_contrast(_training_images(what, home, files)),
    )


def divide(what: str, classes: dict[str, list[Path]], seed: int) -> Files:
    """Draw `TEST_SHARE` of the images of each class, at least one, for the test set.

    Selects the images with the smallest SHA-256 of 'SEED/CLASS/FILE': the split depends on names and seed only, and few images
    change parts when files are added. Raises UsageError for a class with a single image.
    """
    files: Files = {"train": {}, "test": {}}
    for name, found in classes.items():
        if len(found) < 2:
            raise UsageError(f"{what}: {found[0].parent} has one image: a class needs at least two to draw a test set")
        ranks = {file: hashlib.sha256(f"{seed}/{name}/{file.name}".encode(errors="surrogateescape")).digest() for file in found}
        drawn = set(sorted(found, key=ranks.__getitem__)[: max(1, round(TEST_SHARE * len(found)))])
        files["train"][name] = [file for file in found if file not in drawn]
        files["test"][name] = [file for file in found if file in drawn]
    return files


def _is_divided(home: Path) -> bool:
    """Whether 'train' and 'test' are parts, not classes: both exist, or one contains folders."""
    there = [home / part for part in _PARTS if (home / part).is_dir()]
    return len(there) == len(_PARTS) or any(entry.is_dir() for part in there for entry in _visible(part))


def _classes(what: str, part: Path, skipped: collections.Counter[str]) -> dict[str, list[Path]]:
    """List the images of a part by class; count skipped files by kind in `skipped`."""
    classes = {}
    for folder in sorted(_visible(part)):
        if not folder.is_dir():
            skipped[_kind(folder)] += 1
            continue
        found: list[Path] = []
        beside: collections.Counter[str] = collections.Counter()
        for entry in sorted(_visible(folder)):
            if entry.suffix.lower() in SUFFIXES and entry.is_file():
                found.append(entry)
            else:
                beside[_kind(entry)] += 1
        if not found:
            there = f", only {_counted(beside)}" if beside else ""
            raise UsageError(f"{what}: {folder} has no images{there}: supported suffixes are {', '.join(SUFFIXES)}")
        classes[folder.name] = found
        skipped.update(beside)
    return classes


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _kind(entry: Path) -> str:
    return "folder" if entry.is_dir() else f"{entry.suffix.lower() or 'unnamed'} file"


def _counted(kinds: collections.Counter[str]) -> str:
    """Format counts: '2 .tif files, 1 folder'."""
    return ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def _notes(skipped: collections.Counter[str]) -> list[str]:
    return [f"skipped {_counted(skipped)}: supported suffixes are {', '.join(SUFFIXES)}"] if skipped else []


def _check_classes(what: str, home: Path, files: Files) -> None:
    train, test = files["train"], files["test"]
    for name in sorted(train.keys() ^ test.keys()):
        missing = home / ("test" if name in train else "train") / name
        raise UsageError(f"{what}: {missing} is missing: every class needs training and test images")
    if len(train) < 2:
        raise UsageError(f"{what}: {len(train)} class folders found, at least two are needed: {_LAYOUT}")


def _describe(what: str, home: Path, files: Files, size: int | None) -> DatasetInfo:
    """Describe the data set by the header of the first training image: all others must have its size, and get its channels."""
    train, test = files["train"], files["test"]
    first = next(iter(train.values()))[0]
    height, width, channels = images.shape(first, f"{what}: {first.relative_to(home)}")
    shape = (size or height, size or width, channels)
    sizes = sum(map(len, train.values())), sum(map(len, test.values()))
    return DatasetInfo(what.removeprefix("--dataset="), shape, len(train), *sizes, tuple(train))


def _labelled(classes: dict[str, list[Path]]) -> Iterable[tuple[Path, int]]:
    return ((file, label) for label, files in enumerate(classes.values()) for file in files)


def _training_images(what: str, home: Path, files: Files) -> Iterator[np.ndarray]:
    return (images.decode(file, f"{what}: {file.relative_to(home)}", 3) for file, _ in _labelled(files["train"]))


def _read(what: str, home: Path, files: Files, size: int | None) -> Raw:
    info = _describe(what, home, files, size)
    shape_HWC = info.input_shape
    check_memory(what, (info.train_examples + info.test_examples) * int(np.prod(shape_HWC)))

    def part(classes: dict[str, list[Path]], n: int) -> tuple[np.ndarray, np.ndarray]:
        x_NHWC, y_N = np.empty((n, *shape_HWC), np.uint8), np.empty(n, np.int32)
        for i, (file, label) in enumerate(_labelled(classes)):
            name = f"{what}: {file.relative_to(home)}"
            found = images.shape(file, name)
            if found[2] > shape_HWC[2]:
                raise UsageError(
                    f"{name} is {_size(found)} but the first image is {_size(shape_HWC)}: all must have the same size"
                )
            if size is None and found[:2] != shape_HWC[:2]:
                raise UsageError(
                    f"{name} is {_size(found)} but the first image is {_size(shape_HWC)}: "
                    f"--image_size={min(shape_HWC[:2])} resizes all of them"
                )
            x_NHWC[i], y_N[i] = images.decode(file, name, shape_HWC[2], size), label
        return x_NHWC, y_N

    return Raw(*part(files["train"], info.train_examples), *part(files["test"], info.test_examples), info.class_names)


def _size(shape_HWC: tuple[int, int, int]) -> str:
    height, width, channels = shape_HWC
    return f"{height} x {width} {'grey' if channels == 1 else 'colour'}"
