"""Checks of the training components of a fork by their types, before anything is trained."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnn_jax import plugins
from cnn_jax.errors import UsageError
from cnn_jax.training import loss
from cnn_jax.training.components import Components, components
from cnn_jax.training.metrics import check_metrics
from cnn_jax.trial import TrainConfig


def check_components(train: TrainConfig, input_shape: Sequence[int], num_classes: int) -> None:
    """Resolve the components of a configuration, and trace each once.

    Raises:
      UsageError: for an unknown name, an illegal option, or a component that breaks its contract.
    """
    setup = components(train, 1000, num_classes)
    check_schedule(setup)
    check_augmentations(setup, tuple(input_shape), num_classes)
    check_loss(setup, num_classes)
    check_optimizer(setup)
    check_metrics(train.metrics, num_classes)


def check_loss(setup: Components, num_classes: int) -> None:
    """Raise UsageError unless the loss of a fork gives one number per image."""
    logits_BK = jax.ShapeDtypeStruct((4, num_classes), jnp.float32)
    what = f"--loss: {setup.train.loss}"
    with plugins.reporting(f"{what} failed", setup.loss):
        found = jax.eval_shape(setup.loss or loss.cross_entropy, logits_BK, logits_BK)
    if getattr(found, "shape", None) != (4,) or not jnp.issubdtype(found.dtype, jnp.floating):
        raise UsageError(f"{what} must return a float per image, of shape (4,) for 4 images, not {_kind_of(found)}")


def check_augmentations(setup: Components, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Raise UsageError unless the augmentations keep the shapes of images and targets."""
    images_BHWC = jax.ShapeDtypeStruct((4, *input_shape), jnp.float32)
    targets_BK = jax.ShapeDtypeStruct((4, num_classes), jnp.float32)
    what = f"--augment: {setup.train.augment}"
    with plugins.reporting(f"{what} failed"):
        found = jax.eval_shape(lambda x, y: setup.augment(jax.random.key(0), x, y), images_BHWC, targets_BK)
    wanted = (images_BHWC.shape, targets_BK.shape)
    if not isinstance(found, tuple) or tuple(getattr(each, "shape", None) for each in found) != wanted:
        raise UsageError(f"{what} must return images and targets of shapes {wanted[0]} and {wanted[1]}, not {_kind_of(found)}")


def check_schedule(setup: Components) -> None:
    """Raise UsageError unless the schedule gives a number for each step."""
    if setup.factor is None:
        return
    what = f"--schedule: {setup.train.schedule}"
    with plugins.reporting(f"{what} failed"):
        found = jax.eval_shape(lambda step: jnp.asarray(setup.factor(step)), jax.ShapeDtypeStruct((), jnp.int32))  # type: ignore[misc]
    if found.shape != ():
        raise UsageError(f"{what} must return a number for a step, not {_kind_of(found)}")


def check_optimizer(setup: Components) -> None:
    """Raise UsageError unless the optimizer can be built and updates from gradients alone."""
    params = {"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    what = f"--optimizer: {setup.train.optimizer}"
    with plugins.reporting(f"{what} failed"):
        rule = setup.optimizer(dict.fromkeys(setup.train.dynamic, 0.1))
        jax.eval_shape(lambda p: rule.update(p, rule.init(p), p), params)


def _kind_of(found: object) -> str:
    if isinstance(found, tuple | list):
        return f"({', '.join(map(_kind_of, found))})"
    if hasattr(found, "shape") and hasattr(found, "dtype"):
        return f"{found.dtype.name} of shape {found.shape}"
    return type(found).__name__
