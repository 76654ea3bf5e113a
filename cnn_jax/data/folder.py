"""folder:DIR, images in DIR/train/CLASS/ and DIR/test/CLASS/: classes are numbered in the order of their sorted names.

Files and folders whose names start with a dot are skipped, and so is every file that has none of the `SUFFIXES`.
"""

from pathlib import Path

import numpy as np

from cnn_jax.config import UsageError
from cnn_jax.data import images
from cnn_jax.data.source import DatasetInfo, Raw, Source, check_memory, files_identity

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_LAYOUT = "legal is DIR/train/CLASS/*.png and DIR/test/CLASS/*.png"

Files = dict[str, dict[str, list[Path]]]  # by part, 'train' and 'test', and class; all sorted


def source(directory: str) -> Source:
    """The data set in a folder. Raises UsageError if it has not the layout, or a class on one side only, or an empty one."""
    what, home = f"--dataset=folder:{directory}", Path(directory).expanduser()
    try:
        files = {part: _classes(what, home / part) for part in ("train", "test")}
        identity = ["folder", *files_identity(home, (f for part in files.values() for c in part.values() for f in c))]
    except OSError as error:
        raise UsageError(f"{what}: {error.filename} cannot be read ({error.strerror}): {_LAYOUT}") from error
    train, test = files["train"], files["test"]
    for name in sorted(train.keys() ^ test.keys()):
        missing = home / ("test" if name in train else "train") / name
        raise UsageError(f"{what}: {missing} is missing: every class needs training and test images")
    if len(train) < 2:
        raise UsageError(f"{what}: {home / 'train'} has {len(train)} class folders, two or more are needed: {_LAYOUT}")
    return Source(identity, read=lambda: _read(what, home, files), describe=lambda: _describe(what, home, files))


def _classes(what: str, part: Path) -> dict[str, list[Path]]:
    classes = {}
    for folder in sorted(part.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            visible = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
            classes[folder.name] = sorted(f for f in visible if f.is_file())
            if not classes[folder.name]:
                raise UsageError(f"{what}: {folder} holds no image: files ending in {', '.join(SUFFIXES)} are read")
    return classes


def _describe(what: str, home: Path, files: Files) -> DatasetInfo:
    """Decided by the header of the first training image: the others have its size, and are turned to colour if it is."""
    train, test = files["train"], files["test"]
    first = next(iter(train.values()))[0]
    shape = images.shape(first, f"{what}: {first.relative_to(home)}")
    sizes = sum(map(len, train.values())), sum(map(len, test.values()))
    return DatasetInfo(what.removeprefix("--dataset="), shape, len(train), *sizes, tuple(train))


def _read(what: str, home: Path, files: Files) -> Raw:
    info = _describe(what, home, files)
    shape_HWC = info.input_shape
    check_memory(what, (info.train_examples + info.test_examples) * int(np.prod(shape_HWC)))

    def part(classes: dict[str, list[Path]], n: int) -> tuple[np.ndarray, np.ndarray]:
        x_NHWC, y_N = np.empty((n, *shape_HWC), np.uint8), np.empty(n, np.int32)
        labelled = ((file, label) for label, files in enumerate(classes.values()) for file in files)
        for i, (file, label) in enumerate(labelled):
            name = f"{what}: {file.relative_to(home)}"
            found = images.shape(file, name)
            if found[:2] != shape_HWC[:2] or found[2] > shape_HWC[2]:
                raise UsageError(f"{name} is {_size(found)} where the first image is {_size(shape_HWC)}: make them all alike")
            x_NHWC[i], y_N[i] = images.decode(file, name, shape_HWC[2]), label
        return x_NHWC, y_N

    return Raw(*part(files["train"], info.train_examples), *part(files["test"], info.test_examples), info.class_names)


def _size(shape_HWC: tuple[int, int, int]) -> str:
    height, width, channels = shape_HWC
    return f"{height} x {width} {'grey' if channels == 1 else 'colour'}"
