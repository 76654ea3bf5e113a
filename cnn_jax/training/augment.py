"""Augmentations: random changes of training images, drawn on the device from (seed, step).

An augmentation is a function (key, images_BHWC, targets_BK, amount) -> (images_BHWC, targets_BK). Images are float32 from 0 to
1, before normalization; targets are probabilities of the classes. An augmentation without an amount has no fourth parameter. A
fork's `package.module:attribute` has the form (key, images_BHWC, targets_BK); keyword arguments with defaults are set by
--option=augment.NAME=VALUE.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from cnn_jax.nn.padding import pad

Augmentation = Callable[..., tuple[jax.Array, jax.Array]]
Pair = tuple[jax.Array, jax.Array]


def flip(key: jax.Array, images_BHWC: jax.Array, targets_BK: jax.Array) -> Pair:
    """Mirror each image left to right with probability 1/2."""
    mirrored_B = jax.random.bernoulli(key, shape=images_BHWC.shape[:1])
    return jnp.where(mirrored_B[:, None, None, None], images_BHWC[:, :, ::-1], images_BHWC), targets_BK


def crop(
    key: jax.Array,
    images_BHWC: jax.Array,
    targets_BK: jax.Array,
    pixels: int,
    *,
    crop_mode: Literal["zeros", "reflect", "symmetric", "replicate", "circular"] = "reflect",
) -> Pair:
    """Pad every side by `pixels` and cut a window of the old size at a random place; `crop_mode` fills as padding modes do."""
    return _window(key, images_BHWC, pixels, crop_mode), targets_BK


def shift(key: jax.Array, images_BHWC: jax.Array, targets_BK: jax.Array, pixels: int) -> Pair:
    """Move each image by up to `pixels` along each axis, and fill with zeros."""
    return _window(key, images_BHWC, pixels, "zeros"), targets_BK


def _window(key: jax.Array, images_BHWC: jax.Array, pixels: int, mode: str) -> jax.Array:
    batch, *shape = images_BHWC.shape
    padded_BHWC = pad(images_BHWC, ((pixels, pixels),) * 2, mode)
    corners_B2 = jax.random.randint(key, (batch, 2), 0, 2 * pixels + 1)

    def cut(image_HWC: jax.Array, corner_2: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image_HWC, (corner_2[0], corner_2[1], 0), shape)

    return jax.vmap(cut)(padded_BHWC, corners_B2)


def rotate(key: jax.Array, images_BHWC: jax.Array, targets_BK: jax.Array, degrees: float) -> Pair:
    """Turn each image about its center by an angle drawn evenly from -degrees to degrees; bilinear, zeros outside."""
    angles_B = jnp.deg2rad(jax.random.uniform(key, images_BHWC.shape[:1], minval=-degrees, maxval=degrees))
    return jax.vmap(turned)(images_BHWC, angles_B), targets_BK


def turned(image_HWC: jax.Array, angle: jax.Array) -> jax.Array:
    """An image turned counterclockwise about its center by `angle` radians; bilinear, zeros outside."""
    height, width, _ = image_HWC.shape
    y, x = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    rows_HW = cos * y[:, None] + sin * x[None, :] + (height - 1) / 2
    columns_HW = cos * x[None, :] - sin * y[:, None] + (width - 1) / 2

    def turn(channel_HW: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(channel_HW, [rows_HW, columns_HW], order=1)

    return jax.vmap(turn, -1, -1)(image_HWC)


def cutout(key: jax.Array, images_BHWC: jax.Array, targets_BK: jax.Array, pixels: int) -> Pair:
    """Set a square of `pixels` a side to zero, centered at a random pixel (DeVries and Taylor 2017, arXiv 1708.04552)."""
    batch, height, width, _ = images_BHWC.shape
    rows_key, columns_key = jax.random.split(key)

    def inside(key: jax.Array, size: int) -> jax.Array:
        first_B = jax.random.randint(key, (batch, 1), 0, size) - pixels // 2
        position = jnp.arange(size)[None]
        return (position >= first_B) & (position < first_B + pixels)

    hole_BHW = inside(rows_key, height)[:, :, None] & inside(columns_key, width)[:, None, :]
    return jnp.where(hole_BHW[..., None], 0, images_BHWC), targets_BK


def brightness(key: jax.Array, images_BHWC: jax.Array, targets_BK: jax.Array, amount: float) -> Pair:
    """Multiply each image by a factor drawn evenly from 1 - amount to 1 + amount; values stay between 0 and 1."""
    shape = (images_BHWC.shape[0],) + (1,) * (images_BHWC.ndim - 1)
    factor = jax.random.uniform(key, shape, minval=1 - amount, maxval=1 + amount)
    return jnp.clip(images_BHWC * factor, 0, 1), targets_BK


def mixup(key: jax.Array, images_BHWC: jax.Array, targets_BK: jax.Array, alpha: float) -> Pair:
    """Mix each image and its target with those of another of the batch (Zhang et al. 2018, arXiv 1710.09412).

    One weight per step, from Beta(alpha, alpha). The partner of an image is a random distance further in the batch, whose
    order is random.
    """
    weight_key, partner_key = jax.random.split(key)
    weight = jax.random.uniform(weight_key) if alpha == 1 else jax.random.beta(weight_key, alpha, alpha)
    distance = jax.random.randint(partner_key, (), 1, max(2, images_BHWC.shape[0]))

    def mixed(values: jax.Array) -> jax.Array:
        return weight * values + (1 - weight) * jnp.roll(values, distance, axis=0)

    return mixed(images_BHWC), mixed(targets_BK)


BY_NAME: dict[str, Augmentation] = {
    "flip": flip, "crop": crop, "shift": shift, "rotate": rotate, "cutout": cutout, "brightness": brightness, "mixup": mixup,
}  # fmt: skip
