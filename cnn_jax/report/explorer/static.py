"""Static replacement of the networks for browsers without scripts: the kernels of the first layer."""

from collections.abc import Sequence

import numpy as np

from cnn_jax.lowering import Op
from cnn_jax.report import svg

KERNELS = 32  # that are drawn
SIDE = 56


def kernels(ops: Sequence[Op], label: str) -> str:
    """A picture of the first convolution's kernels, or a sentence where there is none."""
    first = next((op for op in ops if op.kind == "conv"), None)
    if first is None:
        return "<p>This page runs the network if scripts are allowed.</p>"
    kernel = first.arrays["kernel"].mean(axis=2)  # over input channels
    shown = np.moveaxis(kernel, -1, 0)[:KERNELS]
    largest = float(np.abs(shown).max()) or 1.0
    columns = 8
    body = []
    for at, one in enumerate(shown):
        left, top = (at % columns) * (SIDE + 6), (at // columns) * (SIDE + 6)
        step_y, step_x = SIDE / one.shape[0], SIDE / one.shape[1]
        for (i, j), value in np.ndenumerate(one):
            body.append(
                svg.tag(
                    "rect", x=left + j * step_x, y=top + i * step_y, width=step_x, height=step_y,
                    class_="c3" if value > 0 else "c0", fill="var(--c)", fill_opacity=round(abs(float(value)) / largest, 3),
                )
            )  # fmt: skip
    rows = -(-len(shown) // columns)
    picture = svg.picture(columns * (SIDE + 6), rows * (SIDE + 6), body, f"kernels of {first.name} of {label}")
    text = f"Kernels of {first.name} of {label}: orange above zero, blue below. With scripts this page runs the network."
    return svg.tag("div", picture, class_="kernels") + svg.tag("p", svg.escape(text), class_="note")
