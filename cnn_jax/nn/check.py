"""Contract of a model: requirements on a linen module for training."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import plugins
from cnn_jax.aliases import PyTree
from cnn_jax.errors import UsageError
from cnn_jax.nn.init import initial_variables


def check_model(model: nn.Module, input_shape: Sequence[int], num_classes: int) -> None:
    """Check that a linen module fulfils the contract of a model; raise UsageError naming the violated rule otherwise.

    The contract: `model(x, train)` with x (N, *input_shape) float32 returns (logits, features), for any N; logits are floats
    (N, num_classes), features a dict from names to arrays with leading N; nothing is NaN or infinite for images between 0
    and 1. With train=False it is deterministic, and the logits of an image do not depend on the rest of the batch (the last
    batch of an evaluation is padded). With train=True it may draw from rng 'dropout' and update the collection 'batch_stats'.

    `check_outputs` checks types and shapes only, by tracing; this function also runs the model.
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
    # 1e-2 of the largest logit: tolerance for other orders of summation, also with TF32 and bfloat16 products.
    if not difference <= 1e-2 * jnp.abs(together["logits"]).max():
        raise UsageError(f"{name}: with train=False, an image must have the same logits every time and in any batch")


def check_outputs(model: nn.Module, input_shape: Sequence[int], num_classes: int, *, name: str = "") -> None:
    """Check the types and shapes of `check_model`'s contract by tracing, without running the model.

    Args:
      model: any linen module.
      input_shape: (*S, C) of an image.
      num_classes: K, logits per image.
      name: name of the model in messages; default its class.

    Raises:
      UsageError: names the violated rule, or the exception with file and line of the model's code.
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


def _apply(model: nn.Module, variables: PyTree, x: jax.Array, train: bool) -> tuple[PyTree, PyTree]:
    """Return the outputs of a model in training or evaluation, and the updated collections."""
    if not train:
        return model.apply(variables, x, train=False), {}
    mutable = ["batch_stats"] if "batch_stats" in variables else []
    return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)}, mutable=mutable)


def _check_variables(name: str, variables: Mapping[str, PyTree]) -> None:
    """Raise UsageError unless there are parameters, all float32: most updates of a bfloat16 value would be rounded away."""
    leaves = jax.tree_util.tree_leaves_with_path(variables.get("params", {}))
    if not leaves:
        raise UsageError(f"{name}: it has no parameters to train")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype.itemsize < 4:
            where = "/".join(str(key.key) for key in path)
            raise UsageError(
                f"{name}: parameter {where!r} is {leaf.dtype.name}: must be float32, whatever the precision of products"
            )


def _check_returned(doing: str, out: object, shape: tuple[int, int]) -> None:
    """Raise UsageError unless `out`, from eval_shape, is (logits of `shape`, dict of arrays with an entry per image)."""
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


def _type_of(value: object) -> str:
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"{value.dtype.name} of shape {value.shape}"
    return type(value).__name__
