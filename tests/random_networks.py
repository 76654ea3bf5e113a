"""Networks of every kind of layer, with variables as after some training."""

import itertools
import zlib

import numpy as np
from flax import traverse_util

from cnn_jax import nn
from cnn_jax.nn.init import initial_variables
from cnn_jax.nn.network import CNN


def trained(spec, shape, seed=0):
    """Variables by path as after some training: norms have statistics, and no bias is zero."""
    rng = np.random.default_rng(seed)
    variables = initial_variables(CNN(spec), shape, seed)
    flat = {path: np.asarray(value) for path, value in traverse_util.flatten_dict(variables, sep="/").items()}
    for path, value in flat.items():
        noise = rng.normal(size=value.shape).astype(np.float32)
        if path.endswith(("bias", "mean")):
            flat[path] = value + 0.1 * noise
        elif path.endswith(("scale", "var")):
            flat[path] = value * np.exp(0.2 * noise)
    return flat


def every_kind_of_layer():
    """(spec, shape of an image): each kind of layer, and each activation, at least once."""
    tail = (nn.Flatten(), nn.Dense(4))
    heads = [
        (nn.DepthwiseConv(3, 2, 2, "same", "circular"),),
        (nn.SeparableConv(6, 3, 2, 1, "same", "reflect", activation="tanh"),),
        (nn.Conv(4), nn.ConvTranspose(6, (3, 2), 2, "same", groups=2, activation="relu")),
        (nn.ConvTranspose(6, 3, 2, "valid", 1),),
        (nn.ConvTranspose(4, 3, 1, 1, dilation=2),),
        (nn.MaxPool(3, 2, "same", 2),),
        (nn.MaxPool((2, 3)),),
        (nn.AvgPool(3, 2, "same"),),
        (nn.AvgPool(3, 2, "same", True),),
        (nn.Conv(4, 3), nn.BatchNorm(), nn.Activation("silu")),
        (nn.Conv(4, 3), nn.BatchNorm(use_scale=False, use_bias=False)),
        (nn.Conv(8, 3), nn.GroupNorm(4)),
        (nn.Conv(8, 3), nn.LayerNorm()),
        (nn.Conv(4, 3, padding="same"), nn.Residual((nn.Conv(4, 3, padding="same"),), ())),
        (nn.Residual((nn.Conv(6, 3, 2, "same"), nn.BatchNorm()), (nn.PadChannels(6, 2),), "gelu"),),
        (nn.Branch(((nn.Conv(2, 1),), (nn.Conv(3, 3, padding="same"),))), nn.Dropout(0.5)),
        (nn.Branch(((nn.Conv(3, 1),), (nn.Conv(3, 3, padding="same"),)), "add"),),
        (nn.Subsample(2, "scaled_tanh"),),
        (nn.Dense(3, activation="relu"),),
        (nn.Conv(3, 3, connections=((0,), (0, 1), (1,))),),
    ]
    found = [((*head, *tail), (8, 8, 2)) for head in heads]
    found += [((nn.Conv(5, 3), pool()), (8, 8, 2)) for pool in (nn.GlobalMaxPool, nn.GlobalAvgPool)]
    codes = tuple(tuple(int(v) for v in row) for row in np.sign(np.random.default_rng(0).normal(size=(3, 4))))
    found.append(((nn.Flatten(), nn.Dense(4), nn.RBF(codes)), (8, 8, 2)))
    return found + [((nn.Conv(4, 3, activation=name), *tail), (8, 8, 2)) for name in nn.ACTIVATIONS]


def every_padding():
    """(spec, shape of an image): padding amounts and modes with strides, dilation and groups, on images that are not square."""
    found = []
    for (padding, mode), strides, dilation in itertools.product(nn.PADDINGS.values(), (1, 2, (2, 3)), (1, 2)):
        found.append((nn.Conv(4, (3, 2), strides, padding, mode, dilation, 2, activation="relu"), nn.Flatten(), nn.Dense(5)))
    found += [(nn.Conv(4, 4, 2, padding), nn.Flatten(), nn.Dense(5)) for padding in ("same_lower", 2, ((0, 3), (1, 0)))]
    return [(spec, (9, 8, 2)) for spec in found]


def seed_of(spec):
    """A seed that is the spec's own in every process."""
    return zlib.crc32(repr(spec).encode())
