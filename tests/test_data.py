import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.cache_folder import cache_root
from cnn_jax.data import cache, images, normalization, red_green, tfds
from cnn_jax.data.order import order
from cnn_jax.errors import UsageError
from cnn_jax.trial import DataConfig

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """Every test has a cache of its own, and no TFDS sets but those it makes."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "cache"


def fails(dataset: str, *words: str, call=data.prepare, **config) -> None:
    """The data set is refused in one line that holds the words."""
    with pytest.raises(UsageError) as error:
        call(DataConfig(dataset, **config))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_importing_and_planning_load_nothing_heavy():
    program = """
import sys
from cnn_jax import data
from cnn_jax.trial import DataConfig
assert data.info(DataConfig("digits")).num_classes == 10
heavy = {"jax", "flax", "sklearn", "PIL", "tensorflow_datasets", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


# ------------------------------------------------------------------------------------------------------ the built-in sets


@pytest.mark.parametrize("name", data.DATASETS)
def test_built_in_sets_are_as_described(name, cache_dir):
    config = DataConfig(name, validation_fraction=0)
    info = data.info(config)
    assert not cache_dir.exists()  # planning writes nothing
    loaded = data.load(config)
    assert loaded.info == info
    assert loaded.train_images.shape == (info.train_examples, *info.input_shape)
    assert loaded.test_images.shape == (info.test_examples, *info.input_shape)
    assert loaded.train_images.dtype == np.uint8
    assert loaded.train_labels.dtype == np.int32
    assert set(loaded.train_labels) == set(loaded.test_labels) == set(range(info.num_classes))
    assert loaded.train_images.max() == 255


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    loaded = data.load(DataConfig("digits"))
    parts = (
        (loaded.train_images, loaded.train_labels),
        (loaded.validation_images, loaded.validation_labels),
        (loaded.test_images, loaded.test_labels),
    )
    rows = [(label, *image.ravel()) for part in parts for image, label in zip(*part, strict=True)]
    assert sorted(rows) == sorted((label, *np.rint(image * 255 / 16).astype(int)) for image, label in zip(x, y, strict=True))


def _box_columns(image: np.ndarray, channel: int) -> np.ndarray:
    assert image[..., channel].sum() == 16 * 255
    return np.unique(np.nonzero(image[..., channel])[1])


def test_red_green_tells_classes_by_order_and_swaps_halves_when_dissimilar():
    similar, dissimilar = (data.load(DataConfig(name)) for name in ("red_green", "red_green:dissimilar"))
    np.testing.assert_array_equal(similar.train_images, dissimilar.train_images)
    for loaded, swapped in ((similar, False), (dissimilar, True)):
        for image, label in zip(loaded.test_images[:200], loaded.test_labels, strict=False):
            red, green = (_box_columns(image, channel) for channel in (0, 1))
            assert len(red) == len(green) == 4
            assert not image[..., 2].any()
            gap = (green[0] - red[0]) if label == 0 else (red[0] - green[0])
            assert gap >= 5
            in_upper_half = np.nonzero(image.any(axis=(1, 2)))[0].max() < 16
            assert in_upper_half == ((label == 0) ^ swapped)
    # The same pictures, moved by sixteen rows.
    np.testing.assert_array_equal(np.roll(similar.test_images, 16, axis=1), dissimilar.test_images)
    first_rows = np.argmax(similar.train_images.any(axis=(2, 3)), axis=1)
    assert set(first_rows) == {*range(3, 11), *range(19, 27)}


def test_the_published_red_green_images_are_drawn_as_by_the_published_program():
    """Its calls: column and row of the left box, then of the right box until it is five columns further right."""
    rng = np.random.RandomState(1988)
    images_NHWC, labels = red_green.published()[2:]
    swapped, _ = red_green.published_dissimilar()[2:]
    for i in range(50):
        top = 3 if i % 2 == 0 else 19
        boxes = [(rng.randint(10), rng.randint(8))]
        boxes += [(rng.randint(boxes[0][0], 28), rng.randint(8))]
        while boxes[-1][0] - boxes[0][0] < 5:
            boxes[-1] = (rng.randint(boxes[0][0], 28), rng.randint(8))
        expected = np.zeros((32, 32, 3), np.uint8)
        for (column, row), colour in zip(boxes, (i % 2, 1 - i % 2), strict=True):
            expected[top + row :, column : column + 4, colour][:4] = 255
        np.testing.assert_array_equal(images_NHWC[i], expected)
        np.testing.assert_array_equal(swapped[i], np.roll(expected, 16, axis=0))
    assert labels.tolist() == [0, 1] * 500


def test_the_published_validation_images_are_the_first_thousand_of_training():
    loaded = data.load(DataConfig("red_green:published", validation_fraction=1 / 3))
    seen = {image.tobytes() for image in loaded.train_images}
    assert (len(loaded.train_images), len(loaded.validation_images)) == (2000, 1000)
    assert sorted(image.tobytes() for image in loaded.validation_images) == sorted(i.tobytes() for i in loaded.test_images)
    assert {image.tobytes() for image in loaded.test_images} <= seen
    assert np.bincount(loaded.validation_labels).tolist() == [500, 500]


# --------------------------------------------------------------------------------------------------------------- the split


def test_split_divides_the_training_images_by_its_seed_alone():
    config = DataConfig("digits", validation_fraction=0.25, split_seed=3)
    loaded, whole = data.load(config), data.find("digits").read()
    both = np.concatenate([loaded.train_indices, loaded.validation_indices])
    assert sorted(both) == list(range(1438))
    assert len(loaded.validation_indices) == loaded.info.validation_examples == round(1438 * 0.25)
    for images_, labels, indices in (
        (loaded.train_images, loaded.train_labels, loaded.train_indices),
        (loaded.validation_images, loaded.validation_labels, loaded.validation_indices),
    ):
        np.testing.assert_array_equal(images_, whole.train_images[indices])
        np.testing.assert_array_equal(labels, whole.train_labels[indices])
    other = data.load(dataclasses.replace(config, split_seed=4))
    assert set(other.validation_indices) != set(loaded.validation_indices)
    assert other.checksum == loaded.checksum
    np.testing.assert_array_equal(other.test_images, loaded.test_images)


def test_split_never_changes():
    """Philox's raw output is promised to be the same on every machine and version: so are our splits."""
    assert order(0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert order(1, 10).tolist() != order(0, 10).tolist()


def test_train_examples_are_nested_and_kept_before_the_split():
    small, large = (data.load(DataConfig("digits", validation_fraction=0.1, train_examples=n)) for n in (100, 500))
    assert (small.info.train_examples, small.info.validation_examples) == (90, 10)
    assert len(small.train_images) == 90
    assert {*small.train_indices, *small.validation_indices} < {*large.train_indices, *large.validation_indices}


def test_no_validation_images_is_legal():
    loaded = data.load(DataConfig("digits", validation_fraction=0.0))
    assert loaded.validation_images.shape == (0, 8, 8, 1)
    assert loaded.validation_labels.shape == (0,)
    assert len(loaded.train_images) == 1438


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"validation_fraction": 1.0}, "--validation_fraction=1.0"),
        ({"validation_fraction": -0.1}, "--validation_fraction=-0.1"),
        ({"validation_fraction": float("nan")}, "--validation_fraction=nan"),
        ({"validation_fraction": 1e-9}, "holds out 0"),
        ({"validation_fraction": 0.99, "train_examples": 3}, "holds out 3 of 3"),
        ({"train_examples": 0}, "--train_examples=0"),
        ({"train_examples": 1439}, "must be between 1 and 1438"),
        ({"split_seed": -1}, "--split_seed=-1"),
    ],
)
def test_impossible_splits_are_refused(config, word, cache_dir):
    fails("digits", word, call=data.info, **config)
    fails("digits", word, call=data.load, **config)
    assert not cache_dir.exists()


# --------------------------------------------------------------------------------------------------------------- the cache


def test_arrays_are_mapped_and_read_only():
    loaded = data.load(DataConfig("digits"))
    for array in (loaded.train_images, loaded.validation_images, loaded.test_images, loaded.train_labels):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_checksum_is_of_the_arrays():
    config = DataConfig("digits", validation_fraction=0)
    loaded = data.load(config)
    arrays = {"test_images": loaded.test_images, "test_labels": loaded.test_labels}
    back = np.argsort(loaded.train_indices)
    arrays |= {"train_images": loaded.train_images[back], "train_labels": loaded.train_labels[back]}
    expected = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        expected.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    assert loaded.checksum == expected.hexdigest()


def _flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_flip_last_byte, lambda f: os.truncate(f, 100), Path.unlink, lambda f: f.write_bytes(b"")])
@pytest.mark.parametrize("array", ["train_images", "images", "test_labels"])
def test_damaged_cache_is_rebuilt(damage, array, cache_dir):
    config = DataConfig("digits")
    before = data.load(config)
    expected = [np.array(a) for a in (before.train_images, before.test_images, before.test_labels)]
    (file,) = cache_dir.glob(f"*/{array}.npy")
    damage(file)
    data.prepare(config)
    after = data.load(config)
    for a, b in zip(expected, (after.train_images, after.test_images, after.test_labels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert after.checksum == before.checksum
    assert len(list(cache_dir.iterdir())) == 4  # two entries and their locks: nothing is left over


@pytest.mark.parametrize("sidecar", ["", "[]", "{}", '{"arrays": {"train_images": 3}}', "\x00\xff"])
def test_damaged_sidecar_is_rebuilt(sidecar, cache_dir):
    before = data.load(DataConfig("digits")).checksum
    for file in cache_dir.glob("*/sidecar.json"):
        file.write_text(sidecar)
    assert data.load(DataConfig("digits")).checksum == before


def test_f5_every_flipped_bit_of_the_sidecar_is_found(cache_dir):
    expected = data.load(DataConfig("digits"))
    (file,) = (f / "sidecar.json" for f in cache_dir.iterdir() if (f / "test_images.npy").exists())
    text = file.read_bytes()
    assert b'"num_classes": 10' in text
    file.write_bytes(text.replace(b'"num_classes": 10', b'"num_classes": 18'))
    assert data.load(DataConfig("digits")).info == expected.info
    assert file.read_bytes() == text
    for place in np.random.default_rng(0).integers(0, len(text), 20):
        damaged = bytearray(text)
        damaged[place] ^= 1 << int(place) % 7
        file.write_bytes(damaged)
        loaded = data.load(DataConfig("digits"))
        assert (loaded.info, loaded.checksum) == (expected.info, expected.checksum)
        assert file.read_bytes() == text


def test_leftovers_of_a_killed_process_are_removed(cache_dir):
    data.prepare(DataConfig("digits"))
    home = next(f for f in cache_dir.iterdir() if (f / "train_images.npy").exists())
    part = home.with_name(f".{home.name}.12345")
    home.rename(part)
    data.prepare(DataConfig("digits"))
    assert home.exists()
    assert not part.exists()


def test_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "file" / "cache"))
    fails("digits", "cannot be written", "CNN_JAX_CACHE")


def test_full_disk_is_one_line_and_leaves_nothing(cache_dir, monkeypatch):
    def no_space(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", no_space)
    fails("digits", "No space left on device")
    assert [f.suffix for f in cache_dir.iterdir()] == [".lock"]


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_root("here") == Path("here")
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("CNN_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/cnn_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "cnn_jax"


def _make_slowly(folder: Path, calls: Path) -> str:
    def make():
        with open(calls, "a") as file:
            file.write("made\n")
        return {"a": np.arange(100_000)}, None

    return cache.entry(folder, "slow", 1, make).checksum


def test_processes_that_start_together_make_an_entry_once(tmp_path):
    calls = tmp_path / "calls"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        checksums = pool.starmap(_make_slowly, [(tmp_path / "cache", calls)] * 3)
    assert len(set(checksums)) == 1
    assert calls.read_text() == "made\n"


# --------------------------------------------------------------------------------------------------------------------- npz


def _arrays(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (20, 6, 5), dtype=np.uint8),
        "y_train": np.arange(20) % 3,
        "x_test": rng.integers(0, 256, (9, 6, 5), dtype=np.uint8),
        "y_test": np.arange(9) % 3,
    }
    return {k: v for k, v in (arrays | changes).items() if v is not None}


def _npz(tmp_path: Path, **changes) -> str:
    np.savez_compressed(tmp_path / "set.npz", **_arrays(**changes))
    return f"npz:{tmp_path / 'set.npz'}"


def test_npz_as_in_keras(tmp_path):
    arrays = _arrays()
    dataset = _npz(tmp_path, y_train=arrays["y_train"][:, None].astype(np.uint8))
    config = DataConfig(dataset, validation_fraction=0.1)
    loaded = data.load(config)
    assert data.info(config) == loaded.info
    assert loaded.info.input_shape == (6, 5, 1)
    assert loaded.info.num_classes == 3
    assert (loaded.info.train_examples, loaded.info.validation_examples, loaded.info.test_examples) == (18, 2, 9)
    np.testing.assert_array_equal(loaded.train_images[..., 0], arrays["x_train"][loaded.train_indices])
    np.testing.assert_array_equal(loaded.train_labels, arrays["y_train"][loaded.train_indices])
    np.testing.assert_array_equal(loaded.test_images[..., 0], arrays["x_test"])


@pytest.mark.parametrize(
    "convert", [lambda x: x / 255, lambda x: (x / 255).astype(np.float32), np.float64, np.int64, np.float16]
)
def test_npz_of_other_number_types_gives_the_same_pixels(convert, tmp_path):
    arrays = _arrays()
    loaded = data.load(DataConfig(_npz(tmp_path, x_train=convert(arrays["x_train"]), x_test=convert(arrays["x_test"]))))
    np.testing.assert_array_equal(loaded.train_images[..., 0], arrays["x_train"][loaded.train_indices])
    np.testing.assert_array_equal(loaded.test_images[..., 0], arrays["x_test"])


def test_npz_that_changes_is_read_again(tmp_path):
    first = data.load(DataConfig(_npz(tmp_path)))
    second = data.load(DataConfig(_npz(tmp_path, x_test=np.zeros((9, 6, 5), np.uint8))))
    assert first.checksum != second.checksum
    assert not second.test_images.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, ["y_test is missing"]),
        ({"x_train": np.zeros((20, 30), np.uint8)}, ["x_train", "(20, 30)", "(N, H, W)"]),
        ({"x_train": np.zeros((0, 6, 5), np.uint8), "y_train": np.zeros(0, int)}, ["x_train", "(0, 6, 5)"]),
        ({"x_test": np.zeros((9, 7, 5), np.uint8)}, ["x_test", "(7, 5, 1)", "(6, 5, 1)"]),
        ({"x_train": np.full((20, 6, 5), "a")}, ["x_train", "dtype"]),
        ({"x_train": np.full((20, 6, 5), None)}, ["x_train", "Python objects"]),
        ({"x_train": np.full((20, 6, 5), np.nan)}, ["x_train", "NaN"]),
        ({"x_test": np.full((9, 6, 5), np.inf)}, ["x_test", "infinity"]),
        ({"x_train": np.full((20, 6, 5), -1)}, ["x_train", "from -1"]),
        ({"x_train": np.full((20, 6, 5), 300.0)}, ["x_train", "to 300"]),
        ({"x_train": np.full((20, 6, 5), 1.5)}, ["x_train", "fractions"]),
        ({"y_train": np.zeros(20)}, ["y_train", "float64", "integers"]),
        ({"y_train": np.arange(19) % 3}, ["y_train", "(19,)", "(20,)"]),
        ({"y_test": np.eye(9, dtype=int)}, ["y_test", "(9, 9)"]),
        ({"y_test": np.arange(9) - 1}, ["y_test", "from -1"]),
        ({"y_test": np.arange(9) + 2**40}, ["y_test"]),
        ({"y_test": np.arange(9) * 1000}, ["8000", "start at 0"]),
        ({"y_train": np.zeros(20, int), "y_test": np.zeros(9, int)}, ["start at 0"]),
        ({"y_train": np.full(20, 7), "y_test": np.full(9, 7)}, ["every training image has label 7"]),  # B7
        ({"x_train": np.zeros((20, 6, 5), bool)}, ["x_train", "bool", "astype"]),
        ({"x_train": np.linspace(-1, 1, 600).reshape(20, 6, 5)}, ["x_train", "from -1 to 1"]),
    ],
)
def test_malformed_npz_is_refused(changes, words, tmp_path, cache_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _npz(tmp_path, **changes)
    fails(dataset, dataset, *words)
    assert not list(cache_dir.glob("*/*"))


_UNIT = {
    "float": lambda x: x / 255,
    "float32": lambda x: (x / 255).astype(np.float32),
    "float16": lambda x: (x / 255).astype(np.float16),
}
_BYTES = {"uint8": lambda x: x, "int64": np.int64, "whole floats": np.float32}
_MASKS = {"mask": lambda x: x // 128, "mask of int64": lambda x: np.int64(x // 128)}


@pytest.mark.parametrize("dark", ["x_train", "x_test"])
@pytest.mark.parametrize(
    ("unit", "other"),
    [*((u, b) for u in (*_UNIT, *_MASKS) for b in _BYTES), *((u, m) for u in _UNIT for m in _MASKS)],
)
def test_b1_parts_of_unlike_scale_are_refused(unit, other, dark, tmp_path):
    """Floats 0..1, or masks of 0 and 1, in one part and 0..255 in the other: both ranges are named, whichever part it is."""
    arrays, convert = _arrays(), _UNIT | _BYTES | _MASKS
    bright = "x_test" if dark == "x_train" else "x_train"
    changes = {dark: convert[unit](arrays[dark]), bright: convert[other](arrays[bright])}
    ranges = [f"{a.min():g} to {a.max():g} ({a.dtype})" for a in changes.values()]
    fails(_npz(tmp_path, **changes), "x_train has values from", "x_test from", *ranges)


@pytest.mark.parametrize("part", ["x_train", "x_test"])
def test_b1_one_pixel_of_2_in_a_float_part_is_refused(part, tmp_path):
    arrays = _arrays()
    masks = {k: (arrays[k] > 127).astype(np.float32) for k in ("x_train", "x_test")}
    shades = {k: arrays[k] / 255 for k in masks}
    masks[part][0, 0, 0] = shades[part][0, 0, 0] = 2
    fails(_npz(tmp_path, **masks), "x_train", "0 to 2 (float32)", "0 to 1 (float32)")
    fails(_npz(tmp_path, **shades), part, "fractions up to 2")


def test_b1_a_black_part_has_any_scale(tmp_path):
    arrays = _arrays()
    loaded = data.load(DataConfig(_npz(tmp_path, x_train=arrays["x_train"] / 255, x_test=np.zeros((9, 6, 5), np.uint8))))
    np.testing.assert_array_equal(loaded.train_images[..., 0], arrays["x_train"][loaded.train_indices])
    assert not loaded.test_images.any()


def test_b1_functions_and_folders_are_checked_too(tmp_path, monkeypatch):
    body = "def images(): return np.ones((9, 4, 4)) / 2, np.arange(9) % 2, np.full((6, 4, 4), 200), np.arange(6) % 2"
    _plugin(tmp_path, monkeypatch, body)
    fails("forked:images", "train_images has values from 0.5 to 0.5 (float64)", "test_images from 200 to 200", call=data.info)
    dataset = _folder(tmp_path / "set", "L")
    for file in (tmp_path / "set" / "test").rglob("*.png"):
        Image.fromarray(np.ones((5, 4), np.uint8)).save(file)
    fails(dataset, "0 to 25", "1 to 1 (uint8)", "same scale")


def test_b7_parts_of_unlike_sizes_are_refused_before_they_are_read(tmp_path):
    fails(_npz(tmp_path, x_test=np.zeros((9, 7, 5), np.uint8)), "x_test", "(7, 5, 1)", "(6, 5, 1)", call=data.info)


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_unreadable_npz_is_refused(content, tmp_path):
    file = tmp_path / "set.npz"
    if content is not None:
        file.write_bytes(content)
    for call in (data.info, data.prepare):
        fails(f"npz:{file}", f"npz:{file}", call=call)


def test_damaged_npz_is_refused_wherever_it_is_cut_or_hit(tmp_path):
    file = Path(_npz(tmp_path).removeprefix("npz:"))
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for size in rng.integers(0, len(content), 20):
        file.write_bytes(content[:size])
        fails(f"npz:{file}", str(file))
    right = _arrays()["x_train"]
    for position in rng.integers(0, len(content), 40):
        file.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        with contextlib.suppress(UsageError):  # some bytes of a zip file do not matter: it is refused, or read right
            np.testing.assert_array_equal(data.find(f"npz:{file}").read().train_images[..., 0], right)


def test_npz_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path):
    import zipfile

    dataset = _npz(tmp_path)
    bomb = io.BytesIO()
    np.lib.format.write_array_header_1_0(bomb, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20, 2**20)})
    members = {f"{k}.npy": bomb.getvalue() if k == "x_train" else b"" for k in _arrays()}
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    fails(dataset, "x_train is damaged", call=data.info)


# ------------------------------------------------------------------------------------------------------------------ folder


def _folder(home: Path, mode: str = "RGB", suffix: str = "png") -> str:
    rng = np.random.default_rng(1)
    channels = () if mode == "L" else (3,)
    for part, n in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            (home / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (5, 4, *channels), dtype=np.uint8)
                Image.fromarray(pixels).save(home / part / name / f"{i}.{suffix}")
    return f"folder:{home}"


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_folder_of_images(mode, channels, tmp_path):
    home = tmp_path / "set"
    config = DataConfig(_folder(home, mode), validation_fraction=0.25)
    (home / "train" / ".hidden").mkdir()
    (home / "train" / "cat" / ".0.png").write_bytes(b"hidden files are skipped")
    (home / "train" / "cat" / "notes.txt").write_text("and so are other files")
    loaded = data.load(config)
    assert data.info(config) == loaded.info
    assert loaded.info == data.DatasetInfo(config.dataset, (5, 4, channels), 2, 6, 4, ("cat", "dog"), validation_examples=2)
    assert loaded.test_labels.tolist() == [0, 0, 1, 1]
    for image, file in zip(loaded.test_images, sorted((home / "test").rglob("*.png")), strict=True):
        np.testing.assert_array_equal(image.squeeze(), np.asarray(Image.open(file)))
    files = sorted((home / "train").rglob("[0-9].png"))
    for image, label, i in zip(loaded.train_images, loaded.train_labels, loaded.train_indices, strict=True):
        np.testing.assert_array_equal(image.squeeze(), np.asarray(Image.open(files[i])))
        assert loaded.info.class_names[label] == files[i].parent.name


@pytest.mark.parametrize("suffix", ["PNG", "jpg", "JPEG", "bmp", "gif", "webp"])
def test_folder_reads_every_format(suffix, tmp_path):
    dataset = _folder(tmp_path / "set", suffix=suffix)
    assert data.load(DataConfig(dataset, validation_fraction=0.25)).test_images.shape == (4, 5, 4, 3)


def test_grey_images_in_a_colour_folder_become_colour(tmp_path):
    dataset = _folder(tmp_path / "set")
    grey = np.arange(20, dtype=np.uint8).reshape(5, 4)
    Image.fromarray(grey).save(tmp_path / "set" / "test" / "cat" / "0.png")
    loaded = data.load(DataConfig(dataset, validation_fraction=0.25))
    np.testing.assert_array_equal(loaded.test_images[0], np.repeat(grey[..., None], 3, axis=2))


def test_broken_folders_are_refused(tmp_path):
    home = tmp_path / "set"
    fails(f"folder:{home}", "train", "cannot be read", "DIR/train/CLASS", call=data.info)
    home.mkdir()
    fails(f"folder:{home}", "0 class folders", call=data.info)
    fails("folder:", "is not a folder", call=data.info)
    for part in ("train", "test"):
        (home / part).mkdir()
    fails(f"folder:{home}", "0 class folders", call=data.info)
    for part in ("train", "test"):
        (home / part).rmdir()
    home.rmdir()
    dataset = _folder(home)
    (home / "train" / "eel").mkdir()
    fails(dataset, "eel", "has no images", ".webp", call=data.info)
    (home / "train" / "cat" / "0.png").rename(home / "train" / "eel" / "0.png")
    fails(dataset, f"{home / 'test' / 'eel'} is missing", call=data.info)


def _undivided(home: Path, counts: dict[str, int]) -> str:
    """DIR/CLASS/*.png, without train and test: every image has a pixel value of its own."""
    value = 0
    for name, n in counts.items():
        (home / name).mkdir(parents=True)
        for i in range(n):
            value += 1
            Image.fromarray(np.full((5, 4), 40 + value, np.uint8)).save(home / name / f"{i:02}.png")
    return f"folder:{home}"


def _parts(dataset: str, **config) -> tuple[list[int], list[int]]:
    """The values of training and test images."""
    loaded = data.load(DataConfig(dataset, validation_fraction=0.0, **config))
    return sorted(loaded.train_images[:, 0, 0, 0].tolist()), sorted(loaded.test_images[:, 0, 0, 0].tolist())


def test_b6_a_folder_without_a_test_set_is_divided_by_the_split_seed(tmp_path):
    """A fifth of each class, at least one image; by names and seed, so neither the order of listing nor the path matters."""
    counts = {"cat": 10, "dog": 23, "eel": 2}
    dataset = _undivided(tmp_path / "set", counts)
    info = data.info(DataConfig(dataset, validation_fraction=0.0))
    assert (info.train_examples, info.test_examples, info.class_names) == (8 + 18 + 1, 2 + 5 + 1, ("cat", "dog", "eel"))
    loaded = data.load(DataConfig(dataset, validation_fraction=0.0))
    assert loaded.info == info
    assert np.bincount(loaded.test_labels).tolist() == [2, 5, 1]
    train, test = _parts(dataset)
    assert sorted(train + test) == list(range(41, 41 + 35))
    assert _parts(dataset, split_seed=1)[1] != test
    moved = _undivided(tmp_path / "elsewhere", dict(reversed(counts.items())))
    values = {f.relative_to(tmp_path / "set"): np.asarray(Image.open(f))[0, 0] for f in (tmp_path / "set").rglob("*.png")}
    for file, value in values.items():
        Image.fromarray(np.full((5, 4), value, np.uint8)).save(tmp_path / "elsewhere" / file)
    assert _parts(moved) == (train, test)


def test_b6_an_added_image_moves_few_others(tmp_path):
    dataset = _undivided(tmp_path / "set", {"cat": 50, "dog": 50})
    before = set(_parts(dataset)[1])
    Image.fromarray(np.full((5, 4), 250, np.uint8)).save(tmp_path / "set" / "cat" / "new.png")
    assert len(before ^ set(_parts(dataset)[1])) <= 2


def test_b6_folders_that_cannot_be_divided_are_refused(tmp_path):
    fails(_undivided(tmp_path / "one", {"cat": 4, "dog": 1}), "dog has one image", "at least two", call=data.info)
    home = tmp_path / "half"
    _folder(home)
    (home / "test").rename(tmp_path / "away")
    fails(f"folder:{home}", "test cannot be read", "DIR/CLASS/*.png", call=data.info)
    classes = _undivided(tmp_path / "vehicles", {"car": 5, "train": 5})  # a class by the name of a part
    assert data.info(DataConfig(classes, validation_fraction=0.0)).class_names == ("car", "train")


def test_b6_skipped_files_are_counted_by_kind(tmp_path):
    home = tmp_path / "set"
    dataset = _folder(home)
    assert data.warnings(DataConfig(dataset, validation_fraction=0.25)) == []
    for name in ("a.tif", "b.TIF", "notes.txt", "README", ".hidden"):
        (home / "train" / "cat" / name).touch()
    (home / "test" / "labels.csv").touch()
    (home / "validation").mkdir()
    (warning,) = data.warnings(DataConfig(dataset, validation_fraction=0.25))
    assert "skipped 2 .tif files, 1 .csv file, 1 .txt file, 1 folder, 1 unnamed file: supported suffixes are .png" in warning
    for file in (home / "test" / "dog").iterdir():
        file.rename(file.with_suffix(".tif"))
    fails(dataset, "dog has no images, only 2 .tif files", call=data.info)


def test_b6_mixed_sizes_are_resized_or_refused_with_both_sizes(tmp_path):
    home = tmp_path / "set"
    dataset = _folder(home)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(home / "test" / "cat" / "0.png")
    fails(dataset, "test/cat/0.png is 9 x 12 colour", "5 x 4 colour", "--image_size=", validation_fraction=0.25)
    config = DataConfig(dataset, validation_fraction=0.25, image_size=3)
    loaded = data.load(config)
    assert loaded.info == data.info(config)
    assert loaded.info.input_shape == (3, 3, 3)
    expected = np.asarray(Image.fromarray(pixels).resize((3, 3), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(loaded.test_images[0], expected)


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "set").touch()
    fails(f"folder:{tmp_path / 'set'}", "cannot be read", call=data.info)


def _png(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    """A tiny PNG file that claims a size, bits per channel and a kind of pixel: 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _save(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["cannot be decoded"]),
        (b"<html>", ["cannot be decoded"]),
        (_save(np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8))[:70], ["cannot be decoded"]),
        (_png(5000, 5000), ["pixels", str(images.MAX_PIXELS)]),
        (_png(12_000, 12_000), ["pixels"]),
        (_png(60_000, 60_000), ["bomb"]),
        (_save(np.zeros((5, 4), np.uint16)), ["I;16", "8-bit"]),
        (_png(4, 5, depth=16), ["RGB;16", "8-bit"]),  # B7
        (_png(4, 5, depth=16, kind=4), ["LA;16", "8-bit"]),
        (_png(4, 5, depth=16, kind=6), ["RGBA;16", "8-bit"]),
        (_save(np.zeros((6, 4, 3), np.uint8)), ["6 x 4 colour", "5 x 4 colour"]),
    ],
    ids=[
        "empty",
        "text",
        "truncated",
        "large",
        "larger",
        "bomb",
        "16 bits",
        "16-bit RGB",
        "16-bit LA",
        "16-bit RGBA",
        "other size",
    ],
)
def test_broken_image_is_named(content, words, tmp_path):
    dataset = _folder(tmp_path / "set")
    (tmp_path / "set" / "test" / "dog" / "1.png").write_bytes(content)
    fails(dataset, "test/dog/1.png", *words)


def test_b7_grey_with_8_bit_alpha_is_grey(tmp_path):
    dataset = _folder(tmp_path / "set", "L")
    (tmp_path / "set" / "test" / "cat" / "0.png").write_bytes(_png(4, 5, kind=4))
    assert data.load(DataConfig(dataset, validation_fraction=0.25)).test_images.shape == (4, 5, 4, 1)


def test_colour_in_a_grey_folder_is_refused(tmp_path):
    dataset = _folder(tmp_path / "set", "L")
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "set" / "train" / "dog" / "3.png")
    fails(dataset, "train/dog/3.png", "5 x 4 colour", "5 x 4 grey")


def test_more_images_than_memory_are_refused(tmp_path, monkeypatch):
    dataset = _folder(tmp_path / "set")
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    fails(dataset, "GB")


# -------------------------------------------------------------------------------------------------------------------- TFDS


def _tfds_set(home: Path, file_format: str, *, image=None, splits=("train", "test"), shape=(5, 4, 3), extra=()) -> np.ndarray:
    """Writes a set as TFDS does, without TensorFlow; returns the images of all splits, 12 each, labels counting 0, 1, 2."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    home.mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 256, (len(splits), 12, 5, 4, 3), dtype=np.uint8)
    for split, x_NHWC in zip(splits, pixels, strict=True):
        records = []
        for i, x_HWC in enumerate(x_NHWC):
            example = tf_example_pb2.Example()
            example.features.feature["picture"].bytes_list.value.append(image or _save(x_HWC))
            example.features.feature["kind"].int64_list.value.append(i % 3)
            records.append(example.SerializeToString())
        file = home / f"{home.parent.name}-{split}.{file_format}-00000-of-00001"
        if file_format == "array_record":
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        else:
            file.write_bytes(b"".join(struct.pack("<QI", len(r), 0) + r + bytes(4) for r in records))
    core = "tensorflow_datasets.core.features"
    features = {
        "picture": {
            "pythonClassName": f"{core}.image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": [str(d) for d in shape]}, "encodingFormat": "png"},
        },
        "kind": {"pythonClassName": f"{core}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "3"}},
    } | dict(extra)
    spec = {"pythonClassName": f"{core}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (home / "features.json").write_text(json.dumps(spec))
    (home / "kind.labels.txt").write_text("ant\nbee\ncow\n")
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    rows = [{"name": s, "shardLengths": ["12"], "numBytes": "1000", "filepathTemplate": template} for s in splits]
    about = {"name": home.parent.name, "version": home.name, "fileFormat": file_format, "splits": rows}
    (home / "dataset_info.json").write_text(json.dumps(about))
    return pixels


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("test", ["test", "validation"])
def test_prepared_tfds_set_is_read_without_tensorflow(file_format, test, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_BATCH", 5)
    train, held_out = _tfds_set(tmp_path / "tfds" / "zoo" / "1.0.0", file_format, splits=("train", test))
    config = DataConfig("zoo", validation_fraction=0.25)
    loaded = data.load(config)
    assert data.info(config) == loaded.info
    assert loaded.info == data.DatasetInfo("zoo", (5, 4, 3), 3, 9, 12, ("ant", "bee", "cow"), validation_examples=3)
    np.testing.assert_array_equal(loaded.train_images, train[loaded.train_indices])
    np.testing.assert_array_equal(loaded.train_labels, loaded.train_indices % 3)
    np.testing.assert_array_equal(loaded.test_images, held_out)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("shape", [(-1, -1, 3), (5, 4, 3)])
def test_b6_tfds_images_are_resized(shape, tmp_path):
    train, _ = _tfds_set(tmp_path / "tfds" / "zoo" / "1.0.0", "array_record", shape=shape)
    config = DataConfig("zoo", validation_fraction=0.25, image_size=8)
    loaded = data.load(config)
    assert loaded.info == data.info(config)
    assert loaded.train_images.shape == (9, 8, 8, 3)
    for image, i in zip(loaded.train_images, loaded.train_indices, strict=True):
        np.testing.assert_array_equal(image, Image.fromarray(train[i]).resize((8, 8), Image.Resampling.BILINEAR))


def test_tfds_versions_and_configs(tmp_path):
    for path in ("zoo/1.9.0", "zoo/1.10.0", "zoo/big/2.0.0"):
        _tfds_set(tmp_path / "tfds" / path, "array_record")
    folders = {name: Path(data.find(name).identity[1]).name for name in ("zoo", "zoo:1.9.0", "zoo/big", "zoo/big:2.0.0")}
    assert folders == {"zoo": "1.10.0", "zoo:1.9.0": "1.9.0", "zoo/big": "2.0.0", "zoo/big:2.0.0": "2.0.0"}


_LABEL = {"classLabel": {"numClasses": "3"}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (-1, -1, 3)}, ["(-1, -1, 3)", "all of the same size", "--image_size"]),
        ({"shape": (6, 4, 3)}, ["image 0 of train", "prepare the set again"]),
        ({"image": b"\x89PNG"}, ["image 0 of train", "cannot be decoded"]),
        ({"image": _png(5000, 5000)}, ["image 0 of train", "pixels"]),
        ({"splits": ("train", "more")}, ["splits train, more", "validation"]),
        ({"extra": [("kind", {})]}, ["not an image classification set", "picture, kind"]),
        ({"extra": [("other", {"image": {}})]}, ["not an image classification set"]),
        ({"extra": [("other", _LABEL)]}, ["kind, other", "none of them is named 'label'"]),
    ],
)
def test_unfit_tfds_sets_are_refused(changes, words, tmp_path):
    _tfds_set(tmp_path / "tfds" / "zoo" / "1.0.0", "array_record", **changes)
    fails("zoo", "--dataset=zoo", *words)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_damaged_tfds_files_are_refused(file_format, tmp_path):
    home = tmp_path / "tfds" / "zoo" / "1.0.0"
    _tfds_set(home, file_format)
    file = next(home.glob("zoo-train*"))
    os.truncate(file, file.stat().st_size * 2 // 3)
    fails("zoo", "--dataset=zoo", str(home))
    file.unlink()
    fails("zoo", "--dataset=zoo", str(home))
    (home / "features.json").write_text("{")
    fails("zoo", "JSON", call=data.info)


def test_tfds_set_that_is_not_prepared_says_what_to_install(tmp_path, monkeypatch):
    find_spec = tfds.importlib.util.find_spec
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    fails("fashion_mnist", "pip install tensorflow", "TFDS_DATA_DIR", str(tmp_path / "tfds"), call=data.info)


@pytest.mark.parametrize("name", ["minst", "digit", "red_gren", "no/such/set", "", "mnist:3", "npz", "folder", "two words"])
def test_unknown_names_are_refused_with_the_legal_values(name):
    fails(name, f"--dataset={name}", "must be ", call=data.info)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("minst", "close names are mnist"),
        ("imdb_reviews", "not an image class"),
        ("mnist:9.9.9", "3.0.1"),
        ("mnist_corrupted/x", "zigzag"),
    ],
)
def test_names_that_tfds_refuses_are_explained(name, word, capfd):
    fails(name, f"--dataset={name}", word, call=data.info)
    assert capfd.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------------------- forks' functions


def _plugin(tmp_path: Path, monkeypatch, body: str) -> None:
    (tmp_path / "forked.py").write_text(f"import numpy as np\n{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "forked", raising=False)


def test_function_of_a_fork(tmp_path, monkeypatch):
    body = """
def images():
    (x := np.zeros((12, 4, 4)))[::2] = 1
    return x, np.arange(12) % 2, x[:6], [0, 1] * 3
"""
    _plugin(tmp_path, monkeypatch, body)
    config = DataConfig("forked:images", validation_fraction=0.25)
    info = data.info(config)
    assert info == data.DatasetInfo("forked:images", (4, 4, 1), 2, 9, 6, ("0", "1"), validation_examples=3)
    loaded = data.load(config)
    assert loaded.info == info
    np.testing.assert_array_equal(loaded.train_images[:, 0, 0, 0], 255 * (loaded.train_indices % 2 == 0))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("images = 3", ["not a function"]),
        ("def other(): pass", ["cannot be imported", "images"]),
        ("1 / 0", ["cannot be imported", "ZeroDivisionError"]),
        ("def images(): 1 / 0", ["failed", "ZeroDivisionError", "forked.py:2)"]),
        ("def images(): return [1, 2]", ["2 arrays", "train_labels"]),
        ("def images(): return [np.zeros(3)] * 4", ["train_images", "(3,)"]),
        ("import sys; sys.exit(0)", ["cannot be imported", "SystemExit: 0"]),  # B7
        ("def images(): raise SystemExit(0)", ["failed", "SystemExit: 0"]),
    ],
)
def test_faulty_function_of_a_fork_is_refused(body, words, tmp_path, monkeypatch):
    _plugin(tmp_path, monkeypatch, body)
    fails("forked:images", "--dataset=forked:images", *words, call=data.info)


# ------------------------------------------------------------------------------------- resizing, normalization, suspicions


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_b6_resizing_is_pillows_per_channel(channels, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (20, 6, 5, channels), dtype=np.uint8)
    config = DataConfig(_npz(tmp_path, x_train=x, x_test=x[:9]), image_size=4)
    loaded = data.load(config)
    assert loaded.info == data.info(config)
    assert loaded.info.input_shape == (4, 4, channels)
    for image, original in zip(loaded.test_images, x, strict=False):
        for c in range(channels):
            plane = Image.fromarray(original[..., c]).resize((4, 4), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(image[..., c], plane)


def test_b6_resizing_to_the_same_size_changes_nothing_and_shrinking_keeps_the_mean():
    whole, same, small = (data.load(DataConfig("digits", image_size=n)) for n in (None, 8, 4))
    np.testing.assert_array_equal(whole.train_images, same.train_images)
    assert whole.checksum == same.checksum != small.checksum
    assert small.train_images.mean() == pytest.approx(whole.train_images.mean(), rel=0.05)  # not sampled: antialiased
    fails("digits", "--image_size=0: must be between 1 and 4096", call=data.info, image_size=0)
    fails("digits", "--normalize=mean: must be one of none, per_channel, standardize", call=data.info, normalize="mean")


def test_b5_per_channel_has_the_statistics_of_the_training_images_alone(tmp_path):
    """Zero mean and unit variance on the images that are trained on; the same shift and scale for all others."""
    x = np.random.default_rng(0).integers(0, 200, (20, 6, 5, 3), dtype=np.uint8)
    x[..., 2] = 9  # constant: centered only
    dataset = _npz(tmp_path, x_train=x, x_test=x[:9])
    config = DataConfig(dataset, validation_fraction=0.25, train_examples=16, normalize="per_channel")
    loaded, plain = data.load(config), data.load(dataclasses.replace(config, normalize="none"))
    pixels = plain.train_images.reshape(-1, 3) / 255
    np.testing.assert_allclose(loaded.normalization.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(loaded.normalization.std, [*pixels.std(0)[:2], 1.0], rtol=1e-12)
    inputs = loaded.normalization(loaded.train_images)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(inputs.std((0, 1, 2)), [1, 1, 0], atol=1e-6)
    assert loaded.checksum == plain.checksum
    np.testing.assert_array_equal(loaded.train_images, plain.train_images)
    assert data.load(dataclasses.replace(config, split_seed=1)).normalization != loaded.normalization
    assert data.Normalization(**dataclasses.asdict(loaded.normalization)) == loaded.normalization


def test_b5_statistics_of_many_pieces_are_those_of_one(monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 2), dtype=np.uint8)
    whole = normalization.channel_statistics(x)
    monkeypatch.setattr(normalization, "_PIECE", 33)
    np.testing.assert_array_equal(normalization.channel_statistics(x), whole)


def test_b5_standardize_gives_each_image_mean_0_and_variance_1():
    x = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
    x[0] = 77
    x[1] = 77
    x[1, 0, 0, 0] += 1  # one grey level in one of 72 values
    y = data.Normalization("standardize")(x)
    assert not y[0].any()
    np.testing.assert_allclose(y.mean((1, 2, 3)), 0, atol=1e-4)  # float32's resolution of y[1]'s mean, in its deviations
    np.testing.assert_allclose(y[2:].std((1, 2, 3)), 1, rtol=1e-5)
    floor = 1 / np.sqrt(6 * 4 * 3)  # of tf.image.per_image_standardization, in grey levels; here it is all but reached
    np.testing.assert_allclose(y[1], (x[1] - x[1].mean()) / max(x[1].std(), floor), rtol=1e-3)
    np.testing.assert_array_equal(data.Normalization("standardize")(x[3:4])[0], y[3])  # whatever else is in the batch
    np.testing.assert_array_equal(data.UNIT(x), x.astype(np.float32) * np.float32(1 / 255))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"x_train": np.full((20, 3, 8, 8), 255), "x_test": np.full((9, 3, 8, 8), 255)}, ["channels-first", "np.moveaxis"]),
        ({"x_train": np.full((20, 1, 9, 9), 255), "x_test": np.full((9, 1, 9, 9), 255)}, ["channels-first"]),
        ({"y_train": np.arange(20) % 3 + 1, "y_test": np.arange(9) % 3 + 1}, ["has label 0, of 4 classes", "subtract 1"]),
        ({"y_train": np.arange(20) % 3 * 2, "y_test": np.arange(9) % 3}, ["no training image has label 1, 3"]),
        ({"x_train": np.ones((20, 6, 5), int), "x_test": np.ones((9, 6, 5), int)}, ["1 of 255", "--normalize"]),
        ({"x_train": np.full((20, 6, 5), 16), "x_test": np.full((9, 6, 5), 16)}, ["16 of 255", "--normalize"]),
        ({"x_train": np.full((20, 6, 5), 100)}, ["training pixels go up to 100, test pixels to 25"]),
    ],
)  # fmt: skip
def test_b5_suspicious_data_is_told_in_a_line_before_and_after_it_is_read(changes, words, tmp_path):
    config = DataConfig(_npz(tmp_path, **changes))
    before = data.warnings(config)
    data.prepare(config)
    assert data.warnings(config) == before
    assert len(before) == bool(words)
    for word in words:
        assert word in before[0]
    assert all("\n" not in line and config.dataset in line for line in before)
    resized = data.warnings(dataclasses.replace(config, image_size=6))
    assert resized == before  # of the images as they were given


def test_b5_a_folder_of_masks_is_told_after_its_first_bright_image_at_the_latest(tmp_path):
    dataset = _undivided(tmp_path / "set", {"cat": 5, "dog": 5})
    assert data.warnings(DataConfig(dataset, validation_fraction=0.0)) == []
    for file in (tmp_path / "set").rglob("*.png"):
        Image.fromarray(np.ones((5, 4), np.uint8)).save(file)
    (warning,) = data.warnings(DataConfig(dataset, validation_fraction=0.0))
    assert "1 of 255" in warning


@pytest.mark.parametrize("name", data.DATASETS)
def test_b5_built_in_sets_are_not_suspicious(name):
    data.prepare(DataConfig(name))
    assert data.warnings(DataConfig(name)) == []


# --------------------------------------------------------------------------------------------------------- real images beside


@pytest.mark.skipif(not (SHARED / "tfds/mnist").exists(), reason="MNIST is not on this machine")
def test_mnist_is_planned_from_its_json(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(SHARED / "tfds"))
    info = data.info(DataConfig("mnist", validation_fraction=0))
    assert (info.input_shape, info.num_classes, info.train_examples, info.test_examples) == ((28, 28, 1), 10, 60_000, 10_000)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "tfds/mnist").exists(), reason="MNIST is not on this machine")
def test_mnist_is_bit_exact(monkeypatch):
    """Counts of the classes and the mean pixel, as published everywhere: 0.1307 of 255 on the training images."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(SHARED / "tfds"))
    loaded = data.load(DataConfig("mnist", validation_fraction=0))
    assert np.bincount(loaded.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(loaded.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert loaded.train_images.mean() / 255 == pytest.approx(0.13066, abs=1e-5)
    assert loaded.train_images.std() / 255 == pytest.approx(0.30811, abs=1e-5)
    found = data.load(DataConfig("mnist", validation_fraction=0, normalize="per_channel")).normalization
    assert (found.mean, found.std) == (pytest.approx((0.1306605,), abs=1e-7), pytest.approx((0.3081078,), abs=1e-7))


@pytest.mark.skipif(not (SHARED / "cifar10_jpeg").exists(), reason="these images are not on this machine")
def test_real_folder_is_listed():
    info = data.info(DataConfig(f"folder:{SHARED / 'cifar10_jpeg'}"))
    assert (info.input_shape, info.num_classes, info.train_examples, info.test_examples) == ((32, 32, 3), 10, 7200, 2000)
    assert info.class_names[:2] == ("airplane", "automobile")
