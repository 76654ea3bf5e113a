"""Linen modules; each file has the modules for the specs in the file of the same name in `nn`."""

from cnn_jax.nn.modules.activation import ACTIVATIONS
from cnn_jax.nn.modules.blocks import PadChannels
from cnn_jax.nn.modules.conv import Conv, ConvTranspose, DepthwiseConv, PooledConv, SeparableConv
from cnn_jax.nn.modules.dense import Dense
from cnn_jax.nn.modules.lenet import RBF, Subsample
from cnn_jax.nn.modules.norm import BatchNorm, JoinedBatchNorm
from cnn_jax.nn.modules.pool import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool

__all__ = [
    "ACTIVATIONS", "RBF", "AvgPool", "BatchNorm", "Conv", "ConvTranspose", "Dense", "DepthwiseConv", "GlobalAvgPool",
    "GlobalMaxPool", "JoinedBatchNorm", "MaxPool", "PadChannels", "PooledConv", "SeparableConv", "Subsample",
]  # fmt: skip
