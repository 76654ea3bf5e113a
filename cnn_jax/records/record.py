"""The schema of a trial's record and of a sweep's header, in one place: writer, reader, tables and statistics share it. No JAX.

Records come from files of unknown origin, so they are decoded by type (see `schema`) and then checked for ranges. Fields that
earlier versions did not write take the default that applied then.
"""

import base64
import binascii
import dataclasses
import datetime
import json
import re
from typing import Literal

from cnn_jax import schema
from cnn_jax.aliases import JsonObject, Value
from cnn_jax.records import confusion
from cnn_jax.trial import TRIAL_PARTS, Trial

SCHEMA = 1
MAX_COUNT = 2**53  # counts become floats in statistics and in the page
MAX_FLOAT32 = 3.4028234e38

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,149}")


class LaterVersion(ValueError):
    """An undamaged record or trial that a later version wrote and this one cannot interpret."""


def is_plain_name(text: object) -> bool:
    """Whether `text` can be a trial's id: the name of a folder, of letters, digits, '-', '_' and '.', not a path."""
    return isinstance(text, str) and _PLAIN_NAME.fullmatch(text) is not None


@dataclasses.dataclass(frozen=True)
class Code:
    """Commit of the code that trained, and whether it had uncommitted changes; None where git is not available."""

    commit: str | None = None  # commit of the code
    dirty: bool | None = None  # whether the code had uncommitted changes


@dataclasses.dataclass(frozen=True)
class Images:
    """SHA-256 of the data set as read, and the number of images in each part."""

    checksum: str  # SHA-256 of the data set as read
    train: int  # number of training images, without the validation images
    validation: int  # number of validation images
    test: int  # number of test images
    normalization: JsonObject | None = None  # arguments of data.Normalization; None: pixels are divided by 255


@dataclasses.dataclass(frozen=True)
class Record:
    """One trial: configuration, status and measurements. Accuracies are fractions of 1, times seconds."""

    schema: int  # SCHEMA of the version that wrote it
    trial: str  # id: a readable slug, then 8 hex digits of a hash of config
    config: Trial  # all settings and the seed; fields added later are left out at their defaults
    status: Literal["done", "diverged", "failed"]  # done, diverged (a loss was not finite) or failed (an exception)
    reason: str | None = None  # of a trial that diverged or failed
    model_defaults: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)  # options that config omits
    params: int | None = None  # trainable parameters
    macs: int | None = None  # multiply-accumulates of convolutions and dense layers for one image, without bias
    receptive_field: int | tuple[int, ...] | None = None  # in pixels, of the last layer with spatial axes
    history: tuple[dict[str, int | float | None], ...] = ()  # a row per epoch: "epoch", and a value per curve
    train_loss: float | None = None  # mean over the steps of the selected epoch
    train_accuracy: float | None = None  # mean over the steps of the selected epoch
    val_loss: float | None = None  # of the validation images; None without any
    val_accuracy: float | None = None  # share of the validation images, on which cells are compared
    test_loss: float | None = None  # of the test images
    test_accuracy: float | None = None  # share of the test images
    test_correct: str | None = None  # base64 of a bit per test image
    val_correct: str | None = None  # base64 of a bit per validation image
    test_examples: int | None = None  # number of test images
    selected_epoch: int | None = None  # whose parameters were kept and measured
    metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)  # as val_nll, test_nll
    confusion: str | None = None  # of the test images, as text: see `confusion`
    train_seconds: float | None = None  # of the training loop; trials that share a program share them
    compile_seconds: float | None = None  # recorded with the first trial of a program
    images_per_second: float | None = None  # training images of this trial
    lanes: int | None = None  # trials that the program trains at a time
    device: str | None = None  # platform and kind, as 'cpu: cpu', and the number of devices
    precision: str | None = None  # type to compute in
    convolution: str | None = None  # implementation of the convolutions
    data: Images | None = None  # the images that were used
    params_sha256: str | None = None  # of the kept parameters
    snapshots: tuple[int, ...] = ()  # epochs whose parameters were kept besides; 0: before training
    snapshots_sha256: str | None = None  # of the snapshots' parameters
    finished: str | None = None  # time, ISO 8601
    command: str | None = None  # command line that trained it
    host: str | None = None  # name of the machine
    code: Code | None = None  # commit of the code
    versions: dict[str, str] | None = None  # of Python, JAX and other packages

    def __post_init__(self) -> None:
        """Raise ValueError if a value is out of range."""
        _require(is_plain_name(self.trial), "trial is not a plain file name")
        counts = (self.params, self.macs, self.test_examples, self.lanes, self.selected_epoch, *_sizes(self.receptive_field))
        if self.data:
            counts += (self.data.train, self.data.validation, self.data.test)
        _require(all(n is None or 0 <= n <= MAX_COUNT for n in counts), "a count is negative or too large")
        for name in ("train_accuracy", "val_accuracy", "test_accuracy"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1, f"{name} is not between 0 and 1")
        for name in ("train_loss", "val_loss", "test_loss"):
            _require(abs(getattr(self, name) or 0) <= MAX_FLOAT32, f"{name} is too large")
        _require(all(abs(value or 0) <= MAX_FLOAT32 for value in self.metrics.values()), "a metric is out of range")
        for name in ("train_seconds", "compile_seconds", "images_per_second"):
            _require(0 <= (getattr(self, name) or 0) <= 1e15, f"{name} is negative or too large")
        _require(all(0 <= epoch < 2**31 for epoch in self.snapshots), "the epoch of a snapshot is out of range")
        self._check_history()
        self._check_images()
        if self.finished is not None:
            _require(1970 <= datetime.datetime.fromisoformat(self.finished).year < 9999, "finished is not a time")

    def __getitem__(self, name: str) -> Value:
        """Return a field by name, as in the records that `store.read` returns."""
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def _check_history(self) -> None:
        for row in self.history:
            epoch = row.get("epoch")
            _require(isinstance(epoch, int) and 0 <= epoch < 2**31, "a row of history has no epoch")
            _require(all(value is None or abs(value) <= MAX_FLOAT32 for value in row.values()), "a curve is out of range")

    def _check_images(self) -> None:
        if self.status == "done":
            _require(self.data is not None and self.test_accuracy is not None, "done, but without data or test_accuracy")
            _require(bool(self.test_examples), "done, but without test images")
        if self.data and self.test_examples is not None:
            _require(self.test_examples == self.data.test, "two numbers of test images")
        if self.confusion is not None:
            images = int(confusion.decode(self.confusion).sum())
            _require(images == self.test_examples, "the confusion matrix is not of the test images")
        _check_bits(self.test_correct, self.test_examples)
        _check_bits(self.val_correct, self.data.validation if self.data else None)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _sizes(size: int | tuple[int, ...] | None) -> tuple[int | None, ...]:
    return size if isinstance(size, tuple) else (size,)


def _check_bits(text: str | None, images: int | None) -> None:
    if text is None:
        return
    try:
        size = len(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise ValueError(f"answers are not base64: {error}") from None
    _require(images is not None and size == (images + 7) // 8, "the answers are not one bit per image")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that was run in a folder. `plan` names the file of its trials, `version` the package that wrote it."""

    command: str  # as it was typed
    time: str  # ISO 8601
    plan: str = ""  # file of its trials, in the folder plan
    version: str | None = None  # of cnn_jax
    about: JsonObject | None = None  # question and settings, for the report


@dataclasses.dataclass(frozen=True)
class Header:
    """What sweep.json holds. `damaged` lists the lines that a command has reported."""

    schema: int = SCHEMA  # SCHEMA of the version that wrote it
    commands: tuple[Command, ...] = ()  # in the order in which they were run
    damaged: tuple[str, ...] = ()  # lines that a command has reported

    def to_json(self) -> JsonObject:
        """Return the header as JSON; empty fields of a command are left out."""
        commands = [
            {field.name: value for field in dataclasses.fields(c) if (value := getattr(c, field.name)) is not None}
            for c in self.commands
        ]
        return {"schema": self.schema, "commands": commands, "damaged": list(self.damaged)}


def decode(raw: object) -> Record:
    """Return a record from parsed JSON; unknown measurements are left out.

    Raises:
      LaterVersion: its configuration has a field that this version does not know.
      ValueError: it is not a record.
    """
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    try:
        return schema.decode(Record, raw | {"config": _trial(raw.get("config"))}, ignore_unknown=True)
    except schema.UnknownField as error:
        if not is_plain_name(raw.get("trial")):
            raise ValueError("trial is not a plain file name") from None
        raise LaterVersion(f"{error}, written by {_version(raw)}") from None


def _trial(raw: object) -> JsonObject:
    """Return a configuration with model, data, train and seed; missing fields take the default of the time of writing."""
    if not isinstance(raw, dict) or not raw.keys() >= TRIAL_PARTS:
        raise ValueError("config is not a trial")
    return raw


def _version(raw: JsonObject) -> str:
    versions = raw.get("versions")
    found = versions.get("cnn_jax") if isinstance(versions, dict) else None
    return f"cnn_jax {found}" if is_plain_name(found) else "an unknown version"


def to_json(record: Record) -> JsonObject:
    """Return a record as statistics and tables read it: every field, with the configuration in its canonical form."""
    out = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    out |= {"config": json.loads(record.config.canonical), "history": [dict(row) for row in record.history]}
    out["snapshots"] = list(record.snapshots)
    out |= {name: value and dataclasses.asdict(value) for name, value in (("data", record.data), ("code", record.code))}
    if record.data and record.data.normalization is None:
        del out["data"]["normalization"]
    if isinstance(record.receptive_field, tuple):
        out["receptive_field"] = list(record.receptive_field)
    return out
