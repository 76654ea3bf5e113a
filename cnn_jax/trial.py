"""A trial: model, data, training, seed, and its id. Every default of a sweep is a field here. No JAX."""

import dataclasses
import functools
import hashlib
import json
import re

from cnn_jax import schema
from cnn_jax.aliases import Value

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")  # first in order, and known without importing optax; optax has more
SELECTIONS = ("last", "best", "best_loss")  # epochs whose parameters are kept and reported
PRECISIONS = ("float32", "bfloat16")  # of computation; parameters, statistics, loss and optimizer are float32
DECAYED = ("all", "kernels")  # parameters that weight decay acts on
# Preprocessing of uint8 pixels: to 0..1; then to zero mean and unit variance, per channel of the training images or per image.
NORMALIZATIONS = ("none", "per_channel", "standardize")

Stack = tuple[int, ...]  # one value per conv block, as in --filters=16-32
Options = tuple[tuple[str, str | int | float], ...]  # (name, value) pairs, sorted by name

# Metadata of fields added after the first sweeps were recorded. At its default such a field is not part of a trial's JSON,
# so ids of finished trials stay valid.
_ADDED: dict[str, bool] = {"added": True}


def added_defaults(part: "type[ModelConfig] | type[DataConfig] | type[TrainConfig]") -> dict[str, Value]:
    """Fields that a trial's JSON omits at their default values, with these values."""
    return {field.name: field.default for field in dataclasses.fields(part) if field.metadata.get("added")}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model by name (of `zoo.MODELS`, or package.module:attribute) and what the sweep sets of it; None: the model's default.

    `kernel_size` and `strides` hold an int, or a stack with an int per conv block. `options` are (name, value) pairs for
    parameters that only this model has. `iso` says that `filters` were solved for equal cost, and of what: 'params@32' is
    as many parameters as the reference cell with 32 filters; it does not affect the network.
    """

    name: str = "cnn"
    filters: Stack | None = None
    kernel_size: Stack | None = None
    strides: Stack | None = None
    padding: str | None = None
    activation: str | None = None
    options: Options = ()  # of parameters that only this model has
    iso: str | None = None  # cost that the filters were solved for, as 'params@32'


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set and its split, which depends on `split_seed` alone, never on a trial's seed."""

    dataset: str = "digits"
    validation_fraction: float = 0.1  # of the training images
    split_seed: int = 0
    train_examples: int | None = None  # keep only this many training images (before the split); None: all
    normalize: str = dataclasses.field(default="none", metadata=_ADDED)  # one of NORMALIZATIONS
    image_size: int | None = dataclasses.field(default=None, metadata=_ADDED)  # resize to this height and width; None: as read


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Names of optimizer, schedule, loss, augmentations and metrics are those of `training`, or package.module:attribute.

    Attributes:
      optimizer: a name of optax or optax.contrib.
      learning_rate: peak of the schedule.
      weight_decay: decoupled where the optimizer has a weight_decay of its own, the gradient of an L2 penalty otherwise.
      momentum: of optimizers that have one, such as sgd and rmsprop.
      batch_size: images of a step.
      epochs: passes over the training images, at most.
      schedule: factor of the learning rate over the steps.
      warmup: linear warmup before the schedule, in steps; below 1 a share of all steps.
      augment: augmentations of the training images joined by '+', as 'flip+crop:4'.
      loss: of one image.
      label_smoothing: share of each target that is spread evenly over the classes.
      clip_norm: bound on the global norm of the gradients.
      ema: decay per step of an exponential moving average of the variables, which is evaluated and kept; 0: none.
      decay_parameters: one of DECAYED; 'kernels' leaves out biases and norms.
      select: one of SELECTIONS, by the validation images.
      patience: epochs without improvement on the validation images after which training stops; None: never.
      precision: one of PRECISIONS.
      metrics: names of metrics of a fork, beside the built-in ones.
      options: further arguments of the components, as ('optimizer.b1', 0.9).
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    batch_size: int = 128
    epochs: int = 5
    schedule: str = dataclasses.field(default="constant", metadata=_ADDED)
    warmup: float = dataclasses.field(default=0.0, metadata=_ADDED)
    augment: str = dataclasses.field(default="none", metadata=_ADDED)
    loss: str = dataclasses.field(default="cross_entropy", metadata=_ADDED)
    label_smoothing: float = dataclasses.field(default=0.0, metadata=_ADDED)
    clip_norm: float | None = dataclasses.field(default=None, metadata=_ADDED)
    ema: float = dataclasses.field(default=0.0, metadata=_ADDED)
    decay_parameters: str = dataclasses.field(default="all", metadata=_ADDED)
    select: str = dataclasses.field(default="last", metadata=_ADDED)
    patience: int | None = dataclasses.field(default=None, metadata=_ADDED)
    precision: str = dataclasses.field(default="float32", metadata=_ADDED)
    metrics: tuple[str, ...] = dataclasses.field(default=(), metadata=_ADDED)
    options: Options = dataclasses.field(default=(), metadata=_ADDED)

    @property
    def dynamic(self) -> dict[str, float]:
        """Arguments of the compiled program."""
        values = {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "momentum": self.momentum,
            "label_smoothing": self.label_smoothing,
            "clip_norm": self.clip_norm or 0.0,
            "ema": self.ema,
        }
        return {name: value for name, value in values.items() if value or name in _ALWAYS_DYNAMIC}

    @classmethod
    def of(cls, dataset: str, **fields: Value) -> "TrainConfig":
        """The defaults for a data set, with `fields` in their place.

        Digits has 1,294 training images: five epochs of 11 steps would be too few, so its default is 60 epochs of 41 steps.
        """
        defaults: dict[str, Value] = {"batch_size": 32, "epochs": 60} if dataset == "digits" else {}
        return cls(**defaults | fields)


_ALWAYS_DYNAMIC = ("learning_rate", "weight_decay", "momentum")  # the others change the program when they are on

TRIAL_PARTS = frozenset(("model", "data", "train", "seed"))  # of a trial's JSON


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run. Equal trials have equal ids and, on the same machine, equal results."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig.of(DataConfig.dataset))
    seed: int = 0  # of initial values, batch orders, augmentation and dropout

    @functools.cached_property
    def canonical(self) -> str:
        """JSON with sorted keys: hashed for the id, and sent to workers."""
        data, model, train = _json(self.data), _json(self.model), _json(self.train)
        return f'{{"data":{data},"model":{model},"seed":{self.seed},"train":{train}}}'

    @functools.cached_property
    def id(self) -> str:
        """A readable slug, then 8 hex digits of the SHA-256 of the canonical JSON; safe as a file name."""
        return (
            f"{_slug(self.data.dataset, self.model)}-seed{self.seed}-{hashlib.sha256(self.canonical.encode()).hexdigest()[:8]}"
        )

    @property
    def static(self) -> tuple:
        """Settings that change the compiled program or the end of training."""
        return (self.model, self.data, _static(self.train))

    @property
    def dynamic(self) -> dict[str, float | int]:
        """Arguments of the compiled program."""
        return {"seed": self.seed, **self.train.dynamic}

    @classmethod
    def from_json(cls, text: str) -> "Trial":
        """Return the trial that `canonical` describes.

        Raises:
          schema.UnknownField: a later version wrote it, with a field that this version does not have.
          ValueError: it is not a trial.
        """
        raw = schema.loads(text)
        if not isinstance(raw, dict) or not raw.keys() >= TRIAL_PARTS:
            raise ValueError("not a trial")
        return schema.decode(cls, raw)


@functools.lru_cache(maxsize=4096)
def _static(train: TrainConfig) -> TrainConfig:
    """The settings with every dynamic value replaced by 1."""
    return dataclasses.replace(train, **dict.fromkeys(train.dynamic, 1))  # type: ignore[arg-type]


# A sweep of 100,000 trials has few different models: their text is cached.
@functools.lru_cache(maxsize=4096)
def _json(part: ModelConfig | DataConfig | TrainConfig) -> str:
    omitted = added_defaults(type(part)).items()
    fields = dict(item for item in dataclasses.asdict(part).items() if item not in omitted)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


@functools.lru_cache(maxsize=4096)
def _slug(dataset: str, m: ModelConfig) -> str:
    words = [re.sub(r"[^A-Za-z0-9]+", "-", w).strip("-")[-24:] for w in (dataset, m.name)]
    for letter, stack in (("f", m.filters), ("k", m.kernel_size), ("s", m.strides)):
        if stack is not None:
            words.append(letter + format_stack(stack))
    words += [re.sub(r"[^A-Za-z0-9_]+", "-", w) for w in (m.padding, m.activation) if w]
    return "-".join(words)[:80]


def format_stack(stack: Stack) -> str:
    """(16, 32) -> '16-32', as on the command line."""
    return "-".join(str(v) for v in stack)
