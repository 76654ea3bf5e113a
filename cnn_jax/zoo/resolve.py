"""Construction of a network from a ModelConfig: resolve and check options, call the model function. No JAX.

A fork's model is named package.module:attribute. The attribute is a function, as in the zoo, that returns a spec or a linen
module; a linen module class (its fields are the options; input_shape and num_classes are filled in); or a spec or module.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard, cast, get_args, get_origin, get_type_hints

from cnn_jax import plugins
from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.nn import ACTIVATIONS, PADDINGS, Spec, layer_table
from cnn_jax.trial import ModelConfig, format_stack
from cnn_jax.zoo.models import MODELS
from cnn_jax.zoo.shapes import ADDED, Shape

if TYPE_CHECKING:
    import flax.linen

FLAGS = ("filters", "kernel_size", "strides", "padding", "activation")
_STACKS = FLAGS[:3]
_LEGAL = {"padding": tuple(PADDINGS), "activation": ACTIVATIONS}


@functools.lru_cache(maxsize=4096)
def resolve(config: ModelConfig) -> ModelConfig:
    """Return the config with every unset option filled in with the model's default.

    A stack of equal kernel sizes or strides becomes one value, so equal networks have equal configs. Raises UsageError for an
    unknown model, an unknown option, an illegal value, and stacks of different lengths.
    """
    parameters = _parameters(config.name)
    flags = {flag: value for flag in FLAGS if (value := getattr(config, flag)) is not None}
    own = dict(config.options)
    for name in own:
        if name in FLAGS:
            raise UsageError(f"--option={name}: {name} has a flag of its own: use --{name}")
    for name in (*flags, *own):
        if name not in parameters:
            has = f"it has {', '.join(parameters)}" if parameters else "it has no options"
            has += "; options of training are optimizer.NAME, schedule.NAME, augment.NAME, loss.NAME" if name in own else ""
            raise UsageError(f"{_flag(name)}: model {config.name} has no {name} to set: {has}")
    values = {
        name: _checked(config.name, name, parameters[name].annotation, value)
        for name, value in (options(config.name) | flags | own).items()
    }
    for name in _STACKS[1:]:
        if len(values.get(name, ())) > 1 and "filters" in values and len(values[name]) != len(values["filters"]):
            raise UsageError(
                f"--{name}: {format_stack(values[name])} has {len(values[name])} values for the {len(values['filters'])} of "
                f"--filters={format_stack(values['filters'])}: give one value, or as many"
            )
    added = _added(config.name)
    rest = tuple(sorted((n, v) for n, v in values.items() if n not in FLAGS and not (n in added and v == added[n])))
    filled: dict[str, Value] = {flag: values.get(flag) for flag in FLAGS}
    return dataclasses.replace(config, options=rest, **filled)


@functools.lru_cache(maxsize=4096)
def spec(config: ModelConfig, input_shape: Shape, num_classes: int) -> Any:
    """Build the network of `config` for images of shape `input_shape` (*S, C): a spec, or a fork's linen module.

    Raises UsageError as in `resolve`, if the model rejects the input or raises, and for a spec that does not end in one logit
    per class. The outputs of a linen module are checked by `zoo.build.build`, which traces it.
    """
    model, config = _load(config.name), resolve(config)
    what = f"--model: {config.name}"
    with _reporting(config.name, "failed", model):
        make = cast(Callable[..., object], model)
        network = model if _is_network(model) else _make(make, config, tuple(input_shape), num_classes)
    if not _is_network(network):
        raise UsageError(f"{what} returned a {type(network).__name__}: it must be a tuple of layer specs or a linen module")
    if isinstance(network, tuple):
        with _reporting(config.name, "has an illegal layer", model):
            table = layer_table(network, tuple(input_shape))
        if table.output_shape != (num_classes,):
            raise UsageError(
                f"{what} gives outputs of shape {table.output_shape} per image, not ({num_classes},), a logit per class"
            )
        if not table.params:
            raise UsageError(f"{what} has no parameters to train")
    return network


def _make(model: Callable[..., object], config: ModelConfig, input_shape: Shape, num_classes: int) -> object:
    """Call a function or a linen class with the settings of a resolved config."""
    arguments = {flag: value for flag in FLAGS if (value := getattr(config, flag)) is not None} | dict(config.options)
    for name, parameter in _parameters(config.name).items():
        if name in _STACKS and name in arguments and parameter.annotation is int:
            arguments[name] = arguments[name][0]
    if not inspect.isclass(model):
        return model(input_shape, num_classes, **arguments)
    given = {"input_shape": input_shape, "num_classes": num_classes}
    fields = inspect.signature(model).parameters
    return model(**{name: value for name, value in given.items() if name in fields}, **arguments)


def _reporting(name: str, what: str, model: object) -> contextlib.AbstractContextManager[None]:
    """Report exceptions of a fork's model in one line; those of a built-in model are bugs and keep their traceback."""
    function = model if callable(model) else None
    return plugins.reporting(f"--model: {name} {what}", function) if ":" in name else contextlib.nullcontext()


@functools.cache
def _load(name: str) -> object:
    if name in MODELS:
        return MODELS[name]
    if ":" not in name:
        raise UsageError(f"--model: unknown model {name!r}: must be one of {', '.join(MODELS)}, or package.module:attribute")
    return plugins.load_attribute(name, f"--model: {name}")


def _is_network(model: object) -> TypeGuard["Spec | flax.linen.Module"]:
    """Whether `model` is a spec or linen module, not a function that returns one."""
    return isinstance(model, tuple) or (hasattr(model, "apply") and not inspect.isclass(model))


@functools.cache
def _parameters(name: str) -> dict[str, inspect.Parameter]:
    model = _load(name)
    if _is_network(model):
        return {}
    if not callable(model):
        raise UsageError(f"--model: {name} is neither a network nor a function that returns one")
    try:
        hints = get_type_hints(getattr(model, "func", model), include_extras=True)
    except (NameError, TypeError):  # a fork's annotations may be missing, or name types imported under TYPE_CHECKING
        hints = {}
    with _reporting(name, "cannot be called", model):  # a builtin may have no signature
        parameters = inspect.signature(model).parameters
    # Fields of a linen module, or parameters after input_shape and num_classes.
    skipped = ("input_shape", "num_classes", "parent", "name") if inspect.isclass(model) else tuple(parameters)[:2]
    return {n: p.replace(annotation=hints.get(n, p.empty)) for n, p in parameters.items() if n not in skipped}


def options(name: str) -> dict[str, Value]:
    """Return all settings of a model, flags and options, with defaults. Raises UsageError for an unknown model."""
    # A fork's fields may have any default (a dtype, a function): such fields cannot be set by flags.
    return {name: p.default for name, p in _parameters(name).items() if isinstance(p.default, str | int | float | tuple)}


@functools.cache
def _added(name: str) -> dict[str, Value]:
    """Return the options of a model marked as added, with their defaults."""
    return {
        option: parameter.default
        for option, parameter in _parameters(name).items()
        if ADDED in getattr(parameter.annotation, "__metadata__", ())
    }


def omitted_options(config: ModelConfig) -> dict[str, Value]:
    """Return the options omitted from a resolved configuration because they are at their defaults, with these values."""
    given = dict(config.options)
    return {name: default for name, default in _added(config.name).items() if name not in given}


def _flag(name: str) -> str:
    return f"--{name}" if name in FLAGS else f"--option={name}"


def _checked(model: str, name: str, annotation: object, value: Value) -> Value:
    """Convert `value` to its form in a ModelConfig. Raises UsageError if it does not match the option's annotation."""

    def refuse(legal: str) -> UsageError:
        return UsageError(f"{_flag(name)}: {value!r} is not legal for model {model}: use {legal}")

    if name in _STACKS:
        stack = (value,) if isinstance(value, int) else tuple(value)
        if not stack or not all(isinstance(v, int) and v >= 1 for v in stack):
            raise refuse("integers of at least 1")
        if name != "filters" and len(set(stack)) == 1:
            stack = stack[:1]
        count = 1 if annotation is int else len(get_args(annotation)) if get_origin(annotation) is tuple else None
        if count and ... not in get_args(annotation) and len(stack) != count:
            raise refuse("one value" if count == 1 else f"{count} values joined by '-'")
        return stack
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    legal = get_args(annotation) if get_origin(annotation) is Literal else _LEGAL.get(name)
    if legal:
        if value not in legal:
            raise refuse(f"one of {', '.join(map(str, legal))}")
    elif annotation is bool:
        if value not in (0, 1):
            raise refuse("0 or 1")
    elif annotation in (int, float) and not isinstance(value, int if annotation is int else int | float):
        raise refuse("an integer" if annotation is int else "a number")
    return value
