"""Types of the arguments of model functions."""

from typing import Literal

Shape = tuple[int, ...]
# The paddings that keep an image's size, so that a shortcut can be added.
SamePadding = Literal["same", "reflect", "symmetric", "replicate", "circular"]
