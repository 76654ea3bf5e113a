"""Outline of a network as blocks, for the diagram of the report."""

from cnn_jax import zoo
from cnn_jax.aliases import JsonObject
from cnn_jax.description.describe import describe
from cnn_jax.nn import named
from cnn_jax.nn.blocks import class_words
from cnn_jax.trial import ModelConfig

MOST_BLOCKS = 48  # of an outline: larger diagrams are unreadable


def outline(model: ModelConfig, input_shape: tuple[int, ...], num_classes: int) -> JsonObject:
    """Return the network as blocks for a diagram, in JSON types.

    A block is a top-level layer of the spec with its name, settings, output shape and parameters. A residual or a branch is one
    block with all of its layers; norms, activations and dropout belong to the preceding block. For a linen module without a
    spec, blocks are its direct submodules. `left_out` counts the blocks after the first `MOST_BLOCKS`.
    """
    resolved = zoo.resolve(model)
    network, found = zoo.spec(resolved, input_shape, num_classes), describe(resolved, input_shape, num_classes)
    spec = network if isinstance(network, tuple) else getattr(network, "spec", None)
    layers = {} if spec is None else {layer.name: layer for layer in named(spec)}
    blocks: list[JsonObject] = []
    params = 0  # of the layers inside the next block, whose rows precede it
    for row in found.layers:
        params += row.params
        if row.name not in layers and (spec is not None or "/" in row.name or row is found.layers[-1]):
            continue
        layer = layers.get(row.name)
        detail = "" if layer is None else layer.detail(len(row.output_shape) - 1)
        if blocks and layer is not None and layer.follows:
            blocks[-1]["detail"] = ", ".join(filter(None, (blocks[-1]["detail"], detail)))
            blocks[-1]["params"] += params
        else:
            kind = row.kind if layer is None else class_words(layer)
            blocks.append({"kind": kind, "detail": detail, "shape": list(row.output_shape), "params": params})
        params = 0
    totals = {"params": found.params, "macs": found.macs, "left_out": max(0, len(blocks) - MOST_BLOCKS)}
    return {"model": found.model, "input_shape": list(input_shape), "blocks": blocks[:MOST_BLOCKS]} | totals
