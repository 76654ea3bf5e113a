"""A confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np

from cnn_jax.report import svg, words
from cnn_jax.report.plots.figure import clip, in_heat

_NUMBERS = 16  # classes up to which squares hold their counts and have names
_ROOM = 14  # characters of a class name


def confusion(matrix_KK: np.ndarray, names: Sequence[str]) -> str:
    """The matrix with labels as rows and answers as columns; right answers in green, confusions in blue, darker for more.

    Colours are shares of the row; of confusions, relative to the largest share.
    """
    classes = len(matrix_KK)
    share_KK = matrix_KK / np.maximum(matrix_KK.sum(axis=1, keepdims=True), 1)
    off = share_KK * ~np.eye(classes, dtype=bool)
    largest = off.max(initial=0.0)
    named = classes <= _NUMBERS
    size = 34 if named else max(4, 560 // classes)
    longest = max(len(clip(name, _ROOM)) for name in names)
    left, top = (38 + 7.5 * longest, 46 if longest <= 3 else 32 + 7 * longest) if named else (24, 24)
    middle = top + size * classes / 2
    body = [
        svg.text(left + size * classes / 2, 13, "answer", anchor="middle", class_="axis"),
        svg.text(13, middle, "label", anchor="middle", class_="axis", transform=f"rotate(-90 13 {middle:.6g})"),
    ]
    for i, name in enumerate(names if named else ()):
        shown = clip(name, _ROOM)
        body.append(svg.text(left - 8, top + size * i + size / 2 + 4, shown, anchor="end", class_="tick strong"))
        x = left + size * (i + 0.5)
        turn = {} if longest <= 3 else {"transform": f"rotate(-90 {x + 4:.6g} {top - 8:.6g})"}
        at, anchor = (x, "middle") if longest <= 3 else (x + 4, "start")
        body.append(svg.text(at, top - 8, shown, anchor=anchor, class_="tick strong", **turn))
    for i in range(classes):
        for j in range(classes):
            count, strength = int(matrix_KK[i, j]), share_KK[i, j] if i == j else share_KK[i, j] / (largest or 1.0)
            if not named and not count:
                continue
            title = f"{words.count(count, 'image')} of class {names[i]} taken for {names[j]}"
            opacity = round(0.05 + 0.9 * float(strength), 3)
            rect = svg.tag(
                "rect",
                class_="heat right" if i == j else "heat",
                x=float(left + size * j),
                y=float(top + size * i),
                width=size - (2 if named else 1),
                height=size - (2 if named else 1),
                rx=3 if named else 0,
                fill_opacity=opacity,
            )
            label = ""
            if named and count:
                class_ = in_heat(0.0 if i == j else opacity)  # green is light enough for dark numbers
                place = left + size * (j + 0.5) - 1, top + size * (i + 0.5) + 3
                label = svg.text(*place, f"{count}", anchor="middle", class_=class_)
            body.append(svg.tag("g", svg.tag("title", svg.escape(title)) + rect + label))
    extent = size * classes
    return svg.tag("div", svg.picture(left + extent + 8, top + extent + 8, body, "confusion matrix"), class_="matrix")
