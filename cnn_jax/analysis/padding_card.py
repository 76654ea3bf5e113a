"""Padding card: behaviour of a network near the border and under shifts; means per padding mode; file format. No JAX.

Cards are measured by `shifts.padding_card`. *S = (H, W).
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cnn_jax.records import files, store
from cnn_jax.records.arrays import from_npz, to_npz

FILE = "inspect/padding_card.npz"  # in the folder of a sweep
MAX_BYTES, MAX_SIDE = 2**28, 256  # limits on the file and on the side of a map


@dataclasses.dataclass(frozen=True, eq=False)  # == of arrays is an array
class PaddingCard:
    """Behaviour of a network near the border.

    Shifts are in row-major order of (dy, dx), -H // 2 <= dy < H - H // 2; entry [H // 2, W // 2] of a map is the unshifted
    image.

    Attributes:
      padding: the padding flag of the trial, or a name given by the caller.
      error_HW: error rate of the images shifted by (dy, dx) with blank pixels shifted in; over the images whose content stays
        inside, nan if there are none.
      error_by_distance: error rate by distance of the content from the nearest border; see `error_by_distance`.
      circular_HW: share of images with the same prediction before and after a circular shift.
      blank_HW: the same with blank pixels shifted in, over the images whose content stays inside; nan if there are none.
      position: R squared of the position read-out, by name and layer; see `measures.position`.
      networks: number of networks averaged.
    """

    padding: str
    error_HW: np.ndarray
    error_by_distance: dict[int, float]
    circular_HW: np.ndarray
    blank_HW: np.ndarray
    position: dict[str, dict[str, float]]
    networks: int = 1


def by_padding(cards: Iterable[PaddingCard]) -> dict[str, PaddingCard]:
    """Average the cards of each padding mode over seeds and other factors; keep only common distances and layers."""
    groups: dict[str, list[PaddingCard]] = {}
    for card in cards:
        groups.setdefault(card.padding, []).append(card)
    return {padding: _mean(group) for padding, group in groups.items()}


def _mean(cards: Sequence[PaddingCard]) -> PaddingCard:
    def mean_of(tables: Sequence[dict]) -> dict:
        shared = [key for key in tables[0] if all(key in table for table in tables)]
        return {key: float(np.mean([table[key] for table in tables])) for key in shared}

    return PaddingCard(
        cards[0].padding,
        np.mean([card.error_HW for card in cards], axis=0),
        mean_of([card.error_by_distance for card in cards]),
        np.mean([card.circular_HW for card in cards], axis=0),
        np.mean([card.blank_HW for card in cards], axis=0),
        {
            name: mean_of([card.position[name] for card in cards])
            for name in cards[0].position
            if all(name in card.position for card in cards)
        },
        len(cards),
    )


# -------------------------------------------------------------------------------------------------------------------- file


def to_file(cards: Mapping[str, PaddingCard]) -> bytes:
    """Serialize cards as .npz: 'TRIAL/padding', the name, and 'TRIAL/maps', error, circular and blank (3, H, W)."""
    arrays: dict[str, np.ndarray] = {}
    for trial, card in cards.items():
        arrays[f"{trial}/padding"] = np.array(card.padding)
        arrays[f"{trial}/maps"] = np.stack([card.error_HW, card.circular_HW, card.blank_HW]).astype(np.float32)
    return to_npz(arrays)


def read(dir: str | os.PathLike, trials: Iterable[str]) -> list[PaddingCard]:
    """Read the cards of some trials from a sweep's folder; maps only.

    Empty without a readable file. The file is untrusted: malformed cards are skipped.
    """
    try:
        arrays = from_npz(files.read_file(store.folder(dir) / FILE, MAX_BYTES))
    except (OSError, ValueError):
        return []
    found = []
    for trial in trials:
        name, maps = arrays.get(f"{trial}/padding"), arrays.get(f"{trial}/maps")
        if name is None or maps is None or name.shape != () or name.dtype.kind != "U":
            continue
        if maps.ndim == 3 and len(maps) == 3 and maps.dtype.kind == "f" and 0 < min(maps.shape) <= max(maps.shape) <= MAX_SIDE:
            error_HW, circular_HW, blank_HW = np.clip(maps.astype(float), 0, 1)
            found.append(PaddingCard(str(name)[:40], error_HW, {}, circular_HW, blank_HW, {}))
    return found
