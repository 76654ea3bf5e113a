"""Networks as data: layer specs, their geometry, and their linen modules. Importing the specs needs no JAX."""

from cnn_jax.nn.activation import ACTIVATIONS, Activation, Dropout
from cnn_jax.nn.blocks import Branch, PadChannels, Residual
from cnn_jax.nn.conv import Conv, ConvTranspose, DepthwiseConv, SeparableConv
from cnn_jax.nn.dense import Dense, Flatten
from cnn_jax.nn.initializers import INITIALIZERS
from cnn_jax.nn.lenet import RBF, Subsample
from cnn_jax.nn.norm import BatchNorm, GroupNorm, LayerNorm
from cnn_jax.nn.padding import PADDING_AMOUNTS, PADDING_MODES, PADDINGS, GeometryError, Padding, Size
from cnn_jax.nn.pool import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from cnn_jax.nn.spec import Field, Layer, Pass, Signal, Spec, Step, flat, named
from cnn_jax.nn.table import Description, LayerInfo, layer_table

__all__ = [
    "ACTIVATIONS", "INITIALIZERS", "PADDINGS", "PADDING_AMOUNTS", "PADDING_MODES", "RBF", "Activation", "AvgPool", "BatchNorm",
    "Branch", "Conv", "ConvTranspose", "Dense", "DepthwiseConv", "Description", "Dropout", "Field", "Flatten", "GeometryError",
    "GlobalAvgPool", "GlobalMaxPool", "GroupNorm", "Layer", "LayerInfo", "LayerNorm", "MaxPool", "PadChannels", "Padding",
    "Pass", "Residual", "SeparableConv", "Signal", "Size", "Spec", "Step", "Subsample", "flat", "layer_table", "named",
]  # fmt: skip
