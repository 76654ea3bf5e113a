"""LeNet-5, as published and as taught."""

from cnn_jax.errors import UsageError
from cnn_jax.nn import RBF, AvgPool, Conv, Dense, Flatten, Spec, Subsample
from cnn_jax.zoo.shapes import Shape

# Maps of S2 connected to each map of C3: table I of LeCun et al. 1998, by column.
_C3 = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5),
    (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# Codes of the classes 0 to 9, 12 rows of 7. The drawings in figure 3 of the paper differ, but have the same size.
_DIGITS = """
    ..###.. ...#... .#####. .#####. .....#. ####### ..####. ####### .#####. .#####.
    .#...#. ..##... #.....# #.....# ....##. #...... .#..... ......# #.....# #.....#
    #.....# .#.#... ......# ......# ...#.#. #...... #...... .....#. #.....# #.....#
    #.....# ...#... ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#
    #.....# ...#... .....#. ......# .#...#. ######. #...... ....#.. .#...#. #.....#
    #.....# ...#... ....#.. ..####. #....#. ......# ######. ....#.. ..###.. .######
    #.....# ...#... ...#... ......# #....#. ......# #.....# ...#... .#...#. ......#
    #.....# ...#... ..#.... ......# ####### ......# #.....# ...#... #.....# ......#
    #.....# ...#... .#..... ......# .....#. ......# #.....# ..#.... #.....# ......#
    #.....# ...#... #...... ......# .....#. ......# #.....# ..#.... #.....# .....#.
    .#...#. ...#... #...... #.....# .....#. #.....# #.....# .#..... #.....# ....#..
    ..###.. .#####. ####### .#####. .....#. .#####. .#####. .#..... .#####. .###...
"""
_CODES = tuple(
    tuple(1 if pixel == "#" else -1 for row in digit for pixel in row)
    for digit in zip(*(line.split() for line in _DIGITS.split("\n") if line.strip()), strict=True)
)


def lenet5(input_shape: Shape, num_classes: int) -> Spec:
    """LeNet-5 as published (LeCun, Bottou, Bengio and Haffner 1998, section II.B): exactly 60,000 trained parameters.

    C3 is connected to S2 by the paper's sparse table, subsampling is trained, and the outputs are distances to fixed 7x12
    drawings of the digits, so there are at most 10 classes. Images smaller than 32x32 are padded with zeros on all sides, as in
    the paper for 28x28. Layers have the paper's names.
    """
    if num_classes > len(_CODES):
        raise UsageError(
            f"--model: lenet5 has output codes for {len(_CODES)} classes, the data have {num_classes}: use lenet5_dense"
        )
    squash = "scaled_tanh"
    return (
        Conv(6, 5, padding=_centred(input_shape), activation=squash, name="C1"),
        Subsample(2, activation=squash, name="S2"),
        Conv(16, 5, activation=squash, connections=_C3, name="C3"),
        Subsample(2, activation=squash, name="S4"),
        Conv(120, 5, activation=squash, name="C5"),
        Flatten(),
        Dense(84, activation=squash, name="F6"),
        RBF(_CODES[:num_classes], name="output"),
    )


def lenet5_dense(input_shape: Shape, num_classes: int, *, activation: str = "tanh") -> Spec:
    """LeNet-5 as commonly taught (Zhang et al., Dive into Deep Learning, section 7.6): dense C3, average pooling."""
    return (
        Conv(6, 5, padding=_centred(input_shape), activation=activation),
        AvgPool(2),
        Conv(16, 5, activation=activation),
        AvgPool(2),
        Flatten(),
        Dense(120, activation=activation),
        Dense(84, activation=activation),
        Dense(num_classes),
    )


def _centred(input_shape: Shape) -> tuple[tuple[int, int], ...]:
    missing = [max(32 - n, 0) for n in input_shape[:-1]]
    return tuple((m // 2, m - m // 2) for m in missing)
