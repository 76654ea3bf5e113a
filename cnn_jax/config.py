"""Frozen dataclasses that say what is to be done: layers, models, data, training, trials. Every default lives here.

A network is data: a tuple of the layer specs below. `geometry` reads it with integers, `models.CNN` builds the linen module
from it, and an entry of `zoo` is a short function that returns one. Nothing here imports JAX.

A size (`kernel_size`, `strides`, `dilation`, `window`) is an int for all spatial axes or a tuple with an int per axis.
A padding amount is one of `PADDING_AMOUNTS`, an int, or a (low, high) pair per spatial axis; the padding mode says what
fills it. The flag `--padding` names both at once: see `PADDINGS`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Union

from cnn_jax import schema

Size = Union[int, tuple[int, ...]]
Padding = Union[str, int, tuple[tuple[int, int], ...]]

PADDING_AMOUNTS = ("valid", "same", "same_lower", "full", "causal")
PADDING_MODES = ("zeros", "reflect", "symmetric", "replicate", "circular")
# Value of the flag --padding -> (amount, mode). The last four fill the 'same' amount.
PADDINGS = {
    "valid": ("valid", "zeros"),
    "same": ("same", "zeros"),
    "full": ("full", "zeros"),
    "reflect": ("same", "reflect"),
    "symmetric": ("same", "symmetric"),
    "replicate": ("same", "replicate"),
    "circular": ("same", "circular"),
}
ACTIVATIONS = (
    "linear", "relu", "leaky_relu", "relu6", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh", "scaled_tanh",
)  # fmt: skip
INITIALIZERS = (
    "zeros", "ones", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "normal",
)  # fmt: skip
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
# How pixels of 0 to 255 become the network's input: 0 to 1; then with zero mean and unit variance, per channel of the
# training images or per image.
NORMALIZATIONS = ("none", "per_channel", "standardize")


class UsageError(ValueError):
    """What the user asked for cannot be done. The message is one line that names the culprit and the legal values."""


def plain(value: Any) -> Any:
    """Returns NumPy integers as int, and lists and arrays as tuples, at any depth; everything else as it is."""
    if isinstance(value, int | str | float):  # bool too: no integer to `as_tuple`
        return value
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return plain(value.tolist()) if hasattr(value, "tolist") else value  # an array or a scalar of NumPy


# ---------------------------------------------------------------------------------------------------------------- layers


class _Layer:
    """Settings as plain Python values, so that a spec is hashable and can be written as JSON."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if (as_plain := plain(value)) is not value:
                object.__setattr__(self, field.name, as_plain)


@dataclasses.dataclass(frozen=True)
class Conv(_Layer):
    """Convolution (cross-correlation, as in every deep-learning library), then bias, then activation."""

    kind: ClassVar[str] = "conv"
    filters: int
    kernel_size: Size = 3
    strides: Size = 1
    padding: Padding = "valid"
    padding_mode: str = "zeros"
    dilation: Size = 1
    groups: int = 1
    activation: str = "linear"
    use_bias: bool = True
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    # Per filter the input channels that it sees; None: all. LeNet-5's layer C3 is the classic use.
    connections: tuple[tuple[int, ...], ...] | None = None
    name: str = ""


@dataclasses.dataclass(frozen=True)
class DepthwiseConv(_Layer):
    """A convolution per input channel: `multiplier` filters each."""

    kind: ClassVar[str] = "depthwise"
    kernel_size: Size = 3
    multiplier: int = 1
    strides: Size = 1
    padding: Padding = "valid"
    padding_mode: str = "zeros"
    dilation: Size = 1
    activation: str = "linear"
    use_bias: bool = True
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class SeparableConv(_Layer):
    """A depthwise convolution, then a 1x1 convolution over its channels (Keras's SeparableConv2D): one bias, at the end."""

    kind: ClassVar[str] = "separable"
    filters: int
    kernel_size: Size = 3
    multiplier: int = 1
    strides: Size = 1
    padding: Padding = "valid"
    padding_mode: str = "zeros"
    dilation: Size = 1
    activation: str = "linear"
    use_bias: bool = True
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class ConvTranspose(_Layer):
    """The gradient of a convolution with respect to its input, used as a layer that enlarges."""

    kind: ClassVar[str] = "conv_transpose"
    filters: int
    kernel_size: Size = 3
    strides: Size = 1
    padding: Padding = "valid"
    output_padding: Size = 0
    dilation: Size = 1
    groups: int = 1
    activation: str = "linear"
    use_bias: bool = True
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class MaxPool(_Layer):
    """Maximum over windows; padding never wins. `strides` None: the window."""

    kind: ClassVar[str] = "pool"
    window: Size = 2
    strides: Size | None = None
    padding: Padding = "valid"
    dilation: Size = 1
    name: str = ""


@dataclasses.dataclass(frozen=True)
class AvgPool(_Layer):
    """Mean over windows. `strides` None: the window."""

    kind: ClassVar[str] = "pool"
    window: Size = 2
    strides: Size | None = None
    padding: Padding = "valid"
    count_include_pad: bool = False
    name: str = ""


@dataclasses.dataclass(frozen=True)
class GlobalMaxPool(_Layer):
    """Maximum over all positions: (N, *S, C) -> (N, C)."""

    kind: ClassVar[str] = "global_pool"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class GlobalAvgPool(_Layer):
    """Mean over all positions: (N, *S, C) -> (N, C)."""

    kind: ClassVar[str] = "global_pool"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Subsample(_Layer):
    """LeNet-5's pooling (LeCun et al. 1998): window sum times a trained coefficient per channel, plus a bias, activation."""

    kind: ClassVar[str] = "subsample"
    window: Size = 2
    activation: str = "linear"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class BatchNorm(_Layer):
    """Batch normalisation over all axes but channels; running statistics at evaluation."""

    kind: ClassVar[str] = "norm"
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    name: str = ""


@dataclasses.dataclass(frozen=True)
class GroupNorm(_Layer):
    """Group normalisation: `groups` groups of channels."""

    kind: ClassVar[str] = "norm"
    groups: int = 8
    epsilon: float = 1e-5
    name: str = ""


@dataclasses.dataclass(frozen=True)
class LayerNorm(_Layer):
    """Layer normalisation over channels."""

    kind: ClassVar[str] = "norm"
    epsilon: float = 1e-6
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Activation(_Layer):
    """An activation function on its own."""

    kind: ClassVar[str] = "activation"
    activation: str = "relu"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Dropout(_Layer):
    """Drops each value with probability `rate` in training, and scales the rest by 1 / (1 - rate)."""

    kind: ClassVar[str] = "dropout"
    rate: float = 0.5
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Flatten(_Layer):
    """(N, *S, C) -> (N, prod(S) * C)."""

    kind: ClassVar[str] = "flatten"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Dense(_Layer):
    """Matrix product over the last axis, then bias, then activation."""

    kind: ClassVar[str] = "dense"
    units: int
    activation: str = "linear"
    use_bias: bool = True
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class RBF(_Layer):
    """LeNet-5's output layer: minus half the squared distance to a fixed code of +1 and -1 per class. No parameters.

    `codes` has a tuple of length (input features) per class.
    """

    kind: ClassVar[str] = "rbf"
    codes: tuple[tuple[int, ...], ...]
    name: str = ""


@dataclasses.dataclass(frozen=True)
class PadChannels(_Layer):
    """ResNet's parameter-free shortcut "A" (He et al. 2016): every `strides`-th position, zeros for the new channels."""

    kind: ClassVar[str] = "pad_channels"
    filters: int
    strides: Size = 1
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Residual(_Layer):
    """activation(body(x) + shortcut(x)); an empty shortcut is the identity."""

    kind: ClassVar[str] = "residual"
    body: tuple["Layer", ...]
    shortcut: tuple["Layer", ...] = ()
    activation: str = "relu"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Branch(_Layer):
    """Branches over the same input, joined along channels ('concat') or added ('add')."""

    kind: ClassVar[str] = "branch"
    branches: tuple[tuple["Layer", ...], ...]
    merge: str = "concat"
    name: str = ""


Layer = Union[
    Conv, DepthwiseConv, SeparableConv, ConvTranspose, MaxPool, AvgPool, GlobalMaxPool, GlobalAvgPool, Subsample, BatchNorm,
    GroupNorm, LayerNorm, Activation, Dropout, Flatten, Dense, RBF, PadChannels, Residual, Branch,
]  # fmt: skip
Spec = tuple[Layer, ...]


def named(spec: Spec) -> Spec:
    """The same network with a unique name for every layer: conv1, pool1, ...; numbered per kind in order of depth.

    Layers inside `Residual` and `Branch` take part in the same numbering, so a name is unique in the whole network: it is
    the key of the layer's parameters and of its features. Raises UsageError if two layers were given one name.
    """
    counts: dict[str, int] = {}
    taken: set[str] = set()

    def visit(layers: Spec) -> Spec:
        out = []
        for layer in layers:
            name = layer.name
            if not name:
                counts[layer.kind] = counts.get(layer.kind, 0) + 1
                name = f"{layer.kind}{counts[layer.kind]}"
            if name in taken:
                raise UsageError(f"two layers are named {name!r}: layer names must be unique in a network")
            taken.add(name)
            nested: dict[str, Any] = {}
            if isinstance(layer, Residual):
                nested = {"body": visit(layer.body), "shortcut": visit(layer.shortcut)}
            elif isinstance(layer, Branch):
                nested = {"branches": tuple(visit(b) for b in layer.branches)}
            out.append(dataclasses.replace(layer, name=name, **nested))
        return tuple(out)

    return visit(tuple(spec))


# ---------------------------------------------------------------------------------------------------------------- trials

Stack = tuple[int, ...]  # one value per conv block, as in --filters=16-32

# Metadata of fields added after the first sweeps were recorded. At its default such a field is not part of a trial's JSON,
# so ids of finished trials stay valid.
_ADDED: dict[str, bool] = {"added": True}


def added_defaults(part: "type[ModelConfig] | type[DataConfig] | type[TrainConfig]") -> dict[str, Any]:
    """Fields that a trial's JSON omits at their default values, with these values."""
    return {field.name: field.default for field in dataclasses.fields(part) if field.metadata.get("added")}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model by name (of `zoo.MODELS`, or package.module:attribute) and what the sweep sets of it; None: the model's default.

    `kernel_size` and `strides` hold an int, or a stack with an int per conv block. `options` are (name, value) pairs for
    parameters that only this model has. `iso` says that `filters` were solved for equal cost, and of what: 'params@32' is
    as many parameters as the reference cell with 32 filters; it changes nothing that is built.
    """

    name: str = "cnn"
    filters: Stack | None = None
    kernel_size: Stack | None = None
    strides: Stack | None = None
    padding: str | None = None
    activation: str | None = None
    options: tuple[tuple[str, str | int | float], ...] = ()
    iso: str | None = None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are divided. The split is a function of `split_seed` alone, never of a trial's seed."""

    dataset: str = "digits"
    validation_fraction: float = 0.1  # of the training images
    split_seed: int = 0
    train_examples: int | None = None  # keep only this many training images (before the split); None: all
    normalize: str = dataclasses.field(default="none", metadata=_ADDED)  # one of NORMALIZATIONS
    image_size: int | None = dataclasses.field(default=None, metadata=_ADDED)  # resize to this height and width; None: as read


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0  # decoupled in adamw, an L2 penalty's gradient in the others
    momentum: float = 0.9  # of sgd and rmsprop
    batch_size: int = 128
    epochs: int = 5

    @classmethod
    def of(cls, dataset: str, **fields: Any) -> "TrainConfig":
        """The defaults for a data set, with `fields` in their place.

        Digits has 1,294 training images: five epochs of 11 steps would show nothing, so it gets 60 epochs of 41 steps.
        """
        return cls(**({"batch_size": 32, "epochs": 60} if dataset == "digits" else {}) | fields)


TRIAL_PARTS = frozenset(("model", "data", "train", "seed"))  # of a trial's JSON


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run. Equal trials have equal ids and, on the same machine, equal results."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig.of(DataConfig.dataset))
    seed: int = 0

    @functools.cached_property
    def canonical(self) -> str:
        """JSON with sorted keys: what the id is a hash of, and what a worker is sent."""
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
        """What changes the compiled program."""
        t = self.train
        return (self.model, self.data, t.optimizer, t.batch_size, t.epochs)

    @property
    def dynamic(self) -> dict[str, float | int]:
        """What is an argument of the compiled program."""
        t = self.train
        return {
            "seed": self.seed,
            "learning_rate": t.learning_rate,
            "weight_decay": t.weight_decay,
            "momentum": t.momentum,
        }

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


# A sweep of 100,000 trials has few different models: their text is made once, not per trial.
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


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder of what is made once per machine: `cache_dir`, $CNN_JAX_CACHE, $XDG_CACHE_HOME/cnn_jax or ~/.cache/cnn_jax.

    A user without a home folder, as in some containers, has it in the folder of temporary files.
    """
    if chosen := cache_dir or os.environ.get("CNN_JAX_CACHE"):
        return Path(chosen).expanduser()
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "cnn_jax"
    try:
        return Path.home() / ".cache" / "cnn_jax"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"cnn_jax-{os.getuid()}"
