"""Luo, Li, Urtasun and Zemel 2016: the effective receptive field grows as the square root of the depth.

A layer of a random network is the last one of a random network of that depth, so one network provides all depths.
"""

import re
from pathlib import Path

import numpy as np

from cnn_jax import stats
from cnn_jax.papers import networks
from cnn_jax.papers.paper import Above, Measure, Paper, Published, Row


def exponent(widths: dict[int, float]) -> float:
    """Fit the slope of log width against log depth, from the second layer on; nan with fewer than two depths."""
    depths = np.array([depth for depth, width in widths.items() if depth > 1 and width > 0], float)
    if len(depths) < 2:
        return float("nan")
    return float(np.polyfit(np.log(depths), np.log([widths[int(depth)] for depth in depths]), 1)[0])


def _by_depth(folder: Path, record: stats.Record, name: str) -> dict[int, float]:
    """Return the field widths of the convolutions by depth."""
    found = networks.values(folder, record["trial"], "effective_field")[name]
    return {int(layer.removeprefix("conv")): width for layer, width in found.items() if re.fullmatch(r"conv\d+", layer)}


def _exponent(name: str) -> Measure:
    return lambda folder, record: exponent(_by_depth(folder, record, name))


def _growth(folder: Path, record: stats.Record) -> float:
    """Compute the width of the deepest convolution's field after training divided by that before."""
    trained, untrained = (_by_depth(folder, record, f"field_std{suffix}") for suffix in ("", "_untrained"))
    return trained[max(trained)] / untrained[max(untrained)]


LUO2016 = Paper(
    "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks (Luo, Li, Urtasun, Zemel 2016)",
    "NeurIPS 2016; arXiv 1701.04128",
    "luo2016",
    (
        Row("random, exponent of the width", {}, _exponent("field_std_untrained"), Published(0.5), share=False),
        Row("trained, exponent of the width", {}, _exponent("field_std"), Published(0.5), share=False),
        Row("trained over random, last layer", {}, _growth, Above(1.0), share=False),
    ),
    margin=0.1,
    seeds=10,
    quick={"seeds": "3", "epochs": "2", "train_examples": "4000"},
    note="Exponents of depth; 0.5 is the paper's theory of random networks. The theoretical field has an exponent of 1.",
)
