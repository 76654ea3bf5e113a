"""The chapter's sentences, each with its measurement. The decision rule is in `claims`."""

import math

from cnn_jax import description
from cnn_jax.chapter import geometry
from cnn_jax.chapter.claims import Check, Claim, Number, corrected
from cnn_jax.chapter.evidence import NONE, SPARSE, Evidence, Layers
from cnn_jax.chapter.geometry import AsDense, Row
from cnn_jax.trial import ModelConfig

_CHAPTERS = ((28, 28, 1), 10, 54_410)  # image, classes and parameters of the network printed in the chapter
_NO_DEEP = "needs a cnn with three convolutions and an mlp with three times its parameters: --filters=16-32-64"


def claims(evidence: Evidence, rows: list[Row], dense: AsDense | None) -> list[Claim]:
    """Return all sentences in the order of the chapter, with corrected p-values.

    Args:
      evidence: measurements of the sweep.
      rows: layers of the chapter's network, from `geometry.layers`.
      dense: its first convolution as a dense layer; None without one.
    """
    return corrected([*_network(evidence, rows), *_sizes(), *_parameters(evidence, dense), *_filters(evidence)])


def _network(evidence: Evidence, rows: list[Row]) -> list[Claim]:
    networks = evidence.networks
    printed = description.describe(ModelConfig("chapter"), *_CHAPTERS[:2]).params
    return [
        Claim(
            "see",
            "Convolutional layers taught networks to see.",
            "convolution sees better",
            "Test accuracy of every cnn minus that of the dense network (mlp) with as many parameters.",
            (evidence.accuracy("cnn minus mlp of its size", networks.pairs, "needs --model=cnn,mlp"),),
        ),
        Claim(
            "network",
            "Conv2D(32, 3x3, relu), MaxPooling2D(2x2), Flatten, Dense(10, softmax).",
            "shapes, parameters of layers",
            "Output shape of every layer for a test image, and its parameters, compared with the chapter's arithmetic: "
            "(n - k)/s + 1 positions and k k c f + f parameters of a convolution, n/2 of a pooling, (d + 1) u of dense.",
            (
                Check("layers that agree with the arithmetic", sum(row.agrees for row in rows), len(rows)),
                Check("the printed network has 54,410 parameters", int(printed == _CHAPTERS[2]), 1, f"counted {printed:,}"),
            ),
        ),
    ]


def _sizes() -> list[Claim]:
    formula, (valid, same), (divided, without) = geometry.formula(), geometry.paddings(), geometry.strides()
    return [
        Claim(
            "size",
            "The output size is floor((n - k)/s) + 1.",
            "size is floor((n-k)/s) + 1",
            "Output sizes of the library's convolution, for every tested combination of n, k, s and padding; n "
            "includes the padding on both sides.",
            (Check("settings with this size", formula.agree, formula.tried),),
        ),
        Claim(
            "padding",
            "Padding valid shrinks the image, padding same keeps its size.",
            "valid shrinks, same keeps",
            "The same for stride 1 and kernels of 2 or more: n - k + 1 with valid padding, n with same.",
            (
                Check("valid gives n - k + 1", valid.agree, valid.tried),
                Check("same gives n", same.agree, same.tried),
            ),
        ),
        Claim(
            "stride",
            "A stride of s divides the size by s.",
            "stride s divides the size",
            "The same for strides of 2 or more, with same padding: n/s, rounded up.",
            (
                Check(
                    "same padding gives n/s", divided.agree, divided.tried,
                    f"without padding only {without.agree} of {without.tried} do: there the size also depends on the kernel",
                ),
            ),
        ),
    ]  # fmt: skip


def _parameters(evidence: Evidence, dense: AsDense | None) -> list[Claim]:
    frugal = evidence.networks.frugal
    if dense is None:
        parts: tuple[Check, ...] = (Check("needs --model=cnn", 0, 0),)
    else:
        parts = (
            Check(
                "at least ten times the parameters", int(dense.far_fewer), 1,
                f"{dense.conv_params:,} compared with {dense.dense_params:,}",
                f"{dense.dense_params / dense.conv_params:,.0f} times as many",
            ),
            Check(
                "outputs equal up to rounding", int(dense.equal), 1, f"largest difference {dense.error:.1e} of the largest one"
            ),
        )  # fmt: skip
    return [
        Claim(
            "dense",
            "A convolution needs far fewer parameters than a dense layer.",
            "far fewer weights than dense",
            "The dense layer equivalent to the first convolution is built, both are applied to a test image, and their "
            "parameters are counted.",
            parts,
        ),
        Claim(
            "fewer",
            "A convolutional network needs far fewer parameters than a dense one.",
            "cnn needs fewer than an mlp",
            "Test accuracy of the smallest cnn with three convolutions minus that of the largest mlp, which has at least three "
            "times its parameters.",
            (evidence.accuracy("small cnn minus large mlp", [frugal] if frugal else [], _NO_DEEP),),
        ),
    ]


def _filters(evidence: Evidence) -> list[Claim]:
    networks, number = evidence.networks, evidence.number
    deep, every = networks.deep, networks.convnets

    def over(name: str, layers: Layers) -> float:
        return layers.mean(name, layers.convolutions)

    def at(name: str, which: str, layers: Layers) -> float:
        return layers.get(name, layers.place(which))

    def zeros(layers: Layers) -> float:
        return layers.mean("sparsity", [name for name in layers.values.get("sparsity", {}) if name in layers.convolutions])

    def half(layers: Layers) -> float:
        return SPARSE if layers.convolutions else math.nan

    def by_one(layers: Layers) -> float:
        return layers.get("shift", "shift 1")

    relu = [cell for cell in every if cell.config["model"].get("activation") in (None, "relu")]
    pooling, lenet = networks.pooling, networks.lenet_pair
    return [
        Claim(
            "detectors",
            "Filters are pattern detectors.",
            "filters detect patterns",
            "The nine top-activating patches of a filter: mean correlation within a filter, minus that between different "
            "filters of the layer, and minus that before training.",
            (
                number(
                    "one filter's patches minus different filters'", every,
                    [("one filter", lambda x: over("alike", x)), ("different", lambda x: over("alike_others", x))], share=False,
                ),
                number(
                    "trained minus untrained", every,
                    [("trained", lambda x: over("alike", x)), ("untrained", lambda x: over("alike_untrained", x))], share=False,
                ),
            ),
        ),
        Claim(
            "edges",
            "First layers detect edges.",
            "first layers see edges",
            "R squared of the best oriented edge or Gabor for every first-layer kernel, minus that of random kernels.",
            (
                number(
                    "trained minus random kernels", every,
                    [
                        ("trained", lambda x: at("edges", "first", x)),
                        ("random", lambda x: at("edges_untrained", "first", x)),
                    ],
                    share=False,
                ),
            ),
        ),
        Claim(
            "patterns",
            "Middle layers detect patterns.",
            "middle layers see patterns",
            "Accuracy of a linear probe on the middle convolution minus that on the first, in networks with three.",
            (
                number(
                    "probe of the middle minus the first layer", deep,
                    [("middle", lambda x: at("probe", "middle", x)), ("first", lambda x: at("probe", "first", x))],
                ),
            ),
        ),
        Claim(
            "objects",
            "Later layers detect objects.",
            "later layers see objects",
            "Accuracy of a linear probe on the last layer, minus that on the first convolution, and minus that of the same "
            "network before training; share of the most frequent class among a filter's top nine images, in the last "
            "convolution minus the first.",
            (
                number(
                    "probe of the last minus the first layer", deep,
                    [("last", lambda x: x.get("probe", x.last)), ("first", lambda x: at("probe", "first", x))],
                ),
                number(
                    "probe of the last layer minus untrained", deep,
                    [("trained", lambda x: x.get("probe", x.last)), ("untrained", lambda x: x.get("probe_untrained", x.last))],
                ),
                number(
                    "one class: last minus first convolution", deep,
                    [("last", lambda x: at("purity", "last", x)), ("first", lambda x: at("purity", "first", x))],
                ),
            ),
        ),
        Claim(
            "relu",
            "ReLU makes activations sparse.",
            "ReLU makes outputs sparse",
            "Share of zeros in the outputs of the convolutions on test images, minus one half.",
            (number("zeros minus one half", relu, [("zeros", zeros), ("half", half)]),),
        ),
        Claim(
            "pooling",
            "Max pooling gives some tolerance of shifts.",
            "max pooling tolerates shifts",
            "Share of test images with the same prediction after a circular shift by one pixel: network with max pooling minus "
            "the network with strides of 2 instead.",
            (
                evidence.unpaired("max pooling minus strides", pooling, by_one, ("pooling", "strides"))
                if pooling
                else Number("max pooling minus strides", NONE, "needs a network with strides instead of pooling"),
            ),
        ),
        Claim(
            "lenet",
            "LeNet-5 read handwritten digits with convolutions.",
            "LeNet-5 beats an mlp",
            "Test accuracy of LeNet-5 as commonly taught, minus that of the largest mlp with at most as many parameters.",
            (evidence.accuracy("LeNet-5 minus mlp", [lenet] if lenet else [], "needs the experiment's own --model"),),
        ),
    ]  # fmt: skip
