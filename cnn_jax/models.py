"""Spec -> CNN, a linen module that returns (logits, features by layer name); initial values drawn without compiling anything.

Any linen module that keeps the same contract can stand in for a CNN: `check_model` tells. N images, K classes.
"""

import dataclasses
import functools
import itertools
import math
import operator
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import config, geometry, layers, plugins, zoo
from cnn_jax.config import Layer, ModelConfig, Size, Spec, UsageError

# ------------------------------------------------------------------------------------------------------------------- CNN


class CNN(nn.Module):
    """The network that `spec` describes: x (N, *S, C) -> (logits (N, K), {layer name: output of the layer}).

    Names are those of `config.named`, for features and parameters alike; layers inside Residual and Branch are no deeper
    than others. With `train`, dropout draws from rng 'dropout' and batch norms update the collection 'batch_stats', which
    then has to be mutable. Features that nobody uses cost nothing under jit. Raises UsageError, naming the layer, at trace.
    """

    spec: Spec
    dtype: Any = None  # to compute in; None: what input and parameters promote to
    precision: str | None = None  # of products: 'default', 'high', 'highest'; None: as jax_default_matmul_precision says

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        forward = _Forward(self.dtype, self.precision, train)
        logits = forward.run(config.named(self.spec), x)
        return logits, forward.features


@dataclasses.dataclass
class _Forward:
    """One pass through a network: what every layer needs to know, and what the layers gave."""

    dtype: Any
    precision: str | None
    train: bool
    features: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    def run(self, spec: Spec, x: jax.Array) -> jax.Array:
        pooled = None  # what a Conv already knows of the max-pool behind it
        for layer, following in itertools.zip_longest(spec, spec[1:]):
            with layers.refusals_named(layer.name):
                if type(layer) not in _APPLY:
                    raise UsageError(f"{layer!r} is no layer: one of {', '.join(kind.__name__ for kind in _APPLY)}")
                if pooled is not None:
                    x, pooled = pooled, None
                elif (window := _window_at_once(layer, following)) is not None:
                    x, pooled = self.module(layers.PooledConv, layer, window=window)(x)
                else:
                    x = _APPLY[type(layer)](layer, x, self)
            self.features[layer.name] = x
        return x

    def module(self, kind: Callable[..., nn.Module], layer: Layer, **more: Any) -> nn.Module:
        """The linen module with the fields of the layer, and as much of the numerics as it has fields for."""
        numerics = {"dtype": self.dtype, "precision": self.precision, "param_dtype": layers.parameter_dtype(self.dtype)}
        accepted = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        return kind(**fields, **{k: v for k, v in numerics.items() if k in accepted}, **more)


def _window_at_once(layer: Layer, following: Layer | None) -> Size | None:
    """The window, if the two are a convolution and a max-pool of windows side by side, which CPUs do faster as one."""
    if (
        not isinstance(layer, config.Conv)
        or layer.activation not in layers.MONOTONE
        or not isinstance(following, config.MaxPool)
    ):
        return None
    side_by_side = following.strides in (None, following.window) and following.padding == "valid" and following.dilation == 1
    return following.window if side_by_side else None


def is_in_c(spec: Spec) -> bool:
    """Whether nearly all of a network's time is in what `convolution` has in C, where it has: nothing but such layers."""

    def layer_is(layer: Layer) -> bool:
        if isinstance(layer, config.Conv | config.Dense) and layer.activation not in ("linear", "relu"):
            return False
        if isinstance(layer, config.Conv):
            return layer.groups == 1 and set(geometry.as_tuple(layer.dilation, 2, "dilation")) == {1}
        return isinstance(layer, config.MaxPool | config.Flatten | config.Dense)

    return all(map(layer_is, spec))


def _linen(kind: Callable[..., nn.Module]) -> Callable[[Any, jax.Array, _Forward], jax.Array]:
    return lambda layer, x, forward: forward.module(kind, layer)(x)


def _batch_norm(layer: config.BatchNorm, x: jax.Array, forward: _Forward) -> jax.Array:
    return forward.module(layers.BatchNorm, layer)(x, forward.train)


def _group_norm(layer: config.GroupNorm, x: jax.Array, forward: _Forward) -> jax.Array:
    if layer.groups < 1 or x.shape[-1] % layer.groups:
        raise UsageError(f"groups={layer.groups} must divide the {x.shape[-1]} channels")
    dtypes = {"dtype": forward.dtype, "param_dtype": layers.parameter_dtype(forward.dtype)}
    return nn.GroupNorm(num_groups=layer.groups, epsilon=layer.epsilon, name=layer.name, **dtypes)(x)


def _dropout(layer: config.Dropout, x: jax.Array, forward: _Forward) -> jax.Array:
    return forward.module(nn.Dropout, layer, deterministic=not forward.train)(x)


def _residual(layer: config.Residual, x: jax.Array, forward: _Forward) -> jax.Array:
    activation = layers.lookup(layers.ACTIVATIONS, "activation", layer.activation)
    return activation(_merged("add", [forward.run(layer.body, x), forward.run(layer.shortcut, x)]))


def _branch(layer: config.Branch, x: jax.Array, forward: _Forward) -> jax.Array:
    return _merged(layer.merge, [forward.run(branch, x) for branch in layer.branches])


def _merged(how: str, branches: Sequence[jax.Array]) -> jax.Array:
    merges: dict[str, Callable[[Sequence[jax.Array]], jax.Array]] = {
        "add": lambda ys: functools.reduce(operator.add, ys),
        "concat": lambda ys: jnp.concatenate(ys, axis=-1),
    }
    merge = layers.lookup(merges, "merge", how)
    if len({y.shape if how == "add" else y.shape[:-1] for y in branches}) != 1:
        raise UsageError(f"branches of shapes {', '.join(str(y.shape[1:]) for y in branches)} cannot be merged by {how!r}")
    return merge(branches)


# To add a layer: a spec in `config`, its geometry, a linen module or function, and a line here.
_APPLY: dict[type, Callable[[Any, jax.Array, _Forward], jax.Array]] = {
    config.Conv: _linen(layers.Conv),
    config.DepthwiseConv: _linen(layers.DepthwiseConv),
    config.SeparableConv: _linen(layers.SeparableConv),
    config.ConvTranspose: _linen(layers.ConvTranspose),
    config.MaxPool: _linen(layers.MaxPool),
    config.AvgPool: _linen(layers.AvgPool),
    config.GlobalMaxPool: _linen(layers.GlobalMaxPool),
    config.GlobalAvgPool: _linen(layers.GlobalAvgPool),
    config.Subsample: _linen(layers.Subsample),
    config.BatchNorm: _batch_norm,
    config.GroupNorm: _group_norm,
    config.LayerNorm: _linen(nn.LayerNorm),
    config.Activation: lambda layer, x, forward: layers.lookup(layers.ACTIVATIONS, "activation", layer.activation)(x),
    config.Dropout: _dropout,
    config.Flatten: lambda layer, x, forward: x.reshape(len(x), math.prod(x.shape[1:])),
    config.Dense: _linen(layers.Dense),
    config.RBF: _linen(layers.RBF),
    config.PadChannels: _linen(layers.PadChannels),
    config.Residual: _residual,
    config.Branch: _branch,
}


def build(model: ModelConfig, input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """The linen module of a model by name: a CNN, or what a fork's own `package.module:attribute` returns.

    `input_shape` is (*S, C). Raises UsageError if the name or one of its settings is unknown, and if what it returns is no
    network or breaks the contract of a model, as far as types and shapes tell (see `check_outputs`).
    """
    made = zoo.spec(model, tuple(input_shape), num_classes)
    if isinstance(made, tuple):
        return CNN(config.named(made))
    check_outputs(made, input_shape, num_classes, name=f"--model: {model.name}")
    return made


# --------------------------------------------------------------------------------------------------------- initial values


def initial_variables(model: nn.Module, input_shape: Sequence[int], seed: int) -> dict[str, Any]:
    """What `model.init` returns, as NumPy arrays: a function of the network and the seed alone.

    A CNN's values are drawn by NumPy, each parameter from its own stream (Philox keyed by the seed and the CRC-32 of the
    parameter's path), from the distributions of `layers.INITIALIZERS`: random numbers inside a compiled program cost more
    time to compile than the network. Any other linen module's `init` is compiled.
    """
    if not isinstance(model, CNN):
        x = np.zeros((1, *input_shape), np.float32)
        return jax.device_get(jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), x))
    shapes = _variable_shapes(model, tuple(input_shape))
    layer_of = {layer.name: layer for layer in flat(config.named(model.spec))}

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        _, layer, parameter = (key.key for key in path)
        stream = zlib.crc32("/".join(key.key for key in path).encode())
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))
        return _initializer(layer_of[layer], parameter, len(input_shape) - 1)(rng, leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def check_model(model: nn.Module, input_shape: Sequence[int], num_classes: int) -> None:
    """Returns if a linen module keeps the contract of a model; otherwise raises UsageError naming what it breaks.

    The contract: `model(x, train)` with x (N, *input_shape) float32 returns (logits, features), for any N; logits are floats
    (N, num_classes), features a dict from names to arrays with leading N; nothing is NaN or infinite for images between 0
    and 1. With train=False it needs no random numbers, and an image has the same logits every time and in any batch (the
    last batch of an evaluation is filled up). With train=True it may draw from rng 'dropout' and write the collection
    'batch_stats'.

    `check_outputs` checks types and shapes alone, by tracing; this function runs the model too.
    """
    name = f"model {type(model).__name__}"
    check_outputs(model, input_shape, num_classes, name=name)
    x = np.random.default_rng(0).uniform(size=(3, *input_shape)).astype(np.float32)
    variables = initial_variables(model, input_shape, seed=0)

    def outputs(images: np.ndarray, train: bool) -> dict[str, jax.Array]:
        with plugins.reporting(f"{name}: {_call_of(train, len(images))} fails"):
            logits, features = jax.jit(lambda x: _apply(model, variables, x, train)[0])(images)
        return {**features, "logits": logits}

    together, alone = outputs(x, False), outputs(x[:1], False)
    for train, found in ((True, outputs(x, True)), (False, together)):
        for key, value in found.items():
            if not jnp.isfinite(value).all():
                raise UsageError(f"{name}: {key!r} is not finite in {_call_of(train)}, for images between 0 and 1")
    difference = jnp.abs(alone["logits"] - together["logits"][:1]).max()
    # 1e-2 of the largest logit: room for sums in another order, also of TF32 and bfloat16 products.
    if not difference <= 1e-2 * jnp.abs(together["logits"]).max():
        raise UsageError(f"{name}: with train=False, an image must have the same logits every time and in any batch")


def check_outputs(model: nn.Module, input_shape: Sequence[int], num_classes: int, *, name: str = "") -> None:
    """Checks the part of `check_model`'s contract that types and shapes tell: traces the model and computes nothing.

    Args:
      model: any linen module.
      input_shape: (*S, C) of an image.
      num_classes: K, how many logits an image must have.
      name: how messages name the model; default its class.

    Raises:
      UsageError: naming the rule that it breaks, or what it raises, with the file and line of the model's code.
    """
    name = name or f"model {type(model).__name__}"
    x = jax.ShapeDtypeStruct((3, *input_shape), jnp.float32)
    with plugins.reporting(f"{name}: init(key, x) fails", type(model).__call__):
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    _check_variables(name, variables)
    for train, images in ((True, x), (False, x), (False, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))):
        doing = _call_of(train, images.shape[0])
        with plugins.reporting(f"{name}: {doing} fails"):
            out, updated = jax.eval_shape(lambda v, x, train=train: _apply(model, v, x, train), variables, images)
        _check_returned(f"{name}: {doing}", out, (images.shape[0], num_classes))
        for collection, tree in updated.items():
            if tree != variables[collection]:
                raise UsageError(
                    f"{name}: {doing} must leave the shapes and types of collection {collection!r} as init made them"
                )


def _call_of(train: bool, images: int = 3) -> str:
    return f"a call with train={train}" + (" on one image" if images == 1 else "")


def _apply(model: nn.Module, variables: Any, x: jax.Array, train: bool) -> tuple[Any, Any]:
    """What training or evaluation gets from a model, and the collections that it updates."""
    if not train:
        return model.apply(variables, x, train=False), {}
    mutable = ["batch_stats"] if "batch_stats" in variables else []
    return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)}, mutable=mutable)


def _check_variables(name: str, variables: Mapping[str, Any]) -> None:
    """Raises UsageError unless there are parameters, all of them float32: an update of a bfloat16 is mostly rounded away."""
    leaves = jax.tree_util.tree_leaves_with_path(variables.get("params", {}))
    if not leaves:
        raise UsageError(f"{name}: it has no parameters to train")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype.itemsize < 4:
            where = "/".join(str(key.key) for key in path)
            raise UsageError(f"{name}: parameter {where!r} is {leaf.dtype.name}: it must be float32, whatever the products are")


def _check_returned(doing: str, out: Any, shape: tuple[int, int]) -> None:
    """Raises UsageError unless `out`, as eval_shape gives it, is (logits of `shape`, dict of arrays, an entry per image)."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise UsageError(f"{doing} must return (logits, features), not {_type_of(out)}")
    logits, features = out
    is_array = isinstance(logits, jax.ShapeDtypeStruct)
    if not is_array or logits.shape != shape or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UsageError(f"{doing} must return logits that are floats of shape {shape}, not {_type_of(logits)}")
    if not isinstance(features, Mapping):
        raise UsageError(f"{doing} must return features as a dict of arrays, not {_type_of(features)}")
    for key, value in features.items():
        if not isinstance(value, jax.ShapeDtypeStruct) or value.shape[:1] != shape[:1]:
            raise UsageError(f"{doing} must return features with an entry per image: {key!r} is {_type_of(value)}")


def _type_of(value: Any) -> str:
    is_array = isinstance(value, jax.ShapeDtypeStruct)
    return f"{value.dtype.name} of shape {value.shape}" if is_array else type(value).__name__


@functools.lru_cache(maxsize=64)  # the trials of a bucket differ in their seeds alone
def _variable_shapes(model: CNN, input_shape: tuple[int, ...]) -> Any:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, *input_shape), np.float32)))


def flat(spec: Spec) -> list[Layer]:
    """Every layer, those inside Residual and Branch before the one that holds them."""
    out: list[Layer] = []
    for layer in spec:
        nested: tuple[Spec, ...] = ()
        if isinstance(layer, config.Residual):
            nested = (layer.body, layer.shortcut)
        elif isinstance(layer, config.Branch):
            nested = layer.branches
        out += [inner for part in nested for inner in flat(part)] + [layer]
    return out


def _initializer(layer: Any, parameter: str, rank: int) -> layers.Initializer:
    """How a parameter of a layer is drawn: what its linen module says, said again for NumPy (a test compares the two)."""
    if parameter.endswith("kernel"):
        init = NUMPY_INITIALIZERS[layer.kernel_init]
        sparse = isinstance(layer, config.Conv) and layer.connections is not None
        return layers.packed_initializer(init, layer.connections) if sparse else init
    if parameter == "scale" and isinstance(layer, config.Subsample):
        return _constant(1 / math.prod(geometry.as_tuple(layer.window, rank, "window")))
    if parameter == "bias" and hasattr(layer, "bias_init"):
        return NUMPY_INITIALIZERS[layer.bias_init]
    return _constant({"scale": 1, "bias": 0, "mean": 0, "var": 1}[parameter])


def _constant(value: float) -> layers.Initializer:
    return lambda rng, shape, dtype: np.full(shape, value, dtype)


def _variance_scaling(scale: float, fan: str, uniform: bool) -> layers.Initializer:
    """Variance scale / fan of a kernel (..., in, out), as `jax.nn.initializers.variance_scaling`: fan_in, or the mean of both.

    Uniform between plus and minus sqrt(3 variance), or normal, cut off at two of its standard deviations and widened to keep
    the variance (0.8796... is the standard deviation of the standard normal cut off at 2).
    """

    def draw(rng: np.random.Generator, shape: Sequence[int], dtype: Any) -> np.ndarray:
        *receptive, inputs, outputs = shape
        fans = {"fan_in": inputs, "fan_avg": (inputs + outputs) / 2}
        deviation = math.sqrt(scale / (fans[fan] * math.prod(receptive)))
        if uniform:
            return ((2 * rng.random(shape, dtype) - 1) * (math.sqrt(3) * deviation)).astype(dtype)
        z = rng.standard_normal(shape, dtype)
        while (out := np.abs(z) > 2).any():
            z[out] = rng.standard_normal(out.sum(), dtype)
        return (z * (deviation / 0.87962566103423978)).astype(dtype)

    return draw


NUMPY_INITIALIZERS: dict[str, layers.Initializer] = {
    "zeros": _constant(0.0),
    "ones": _constant(1.0),
    "glorot_uniform": _variance_scaling(1, "fan_avg", uniform=True),
    "glorot_normal": _variance_scaling(1, "fan_avg", uniform=False),
    "he_uniform": _variance_scaling(2, "fan_in", uniform=True),
    "he_normal": _variance_scaling(2, "fan_in", uniform=False),
    "lecun_uniform": _variance_scaling(1, "fan_in", uniform=True),
    "lecun_normal": _variance_scaling(1, "fan_in", uniform=False),
    "normal": lambda rng, shape, dtype: (rng.standard_normal(shape, dtype) * 0.01).astype(dtype),
}
