"""Draws what every padding mode does, with `cnn_jax.pad` and `cnn_jax.conv` themselves.

    python docs/padding_pictures.py docs/pictures/padding

Writes three pictures per value of --padding, for a kernel of 5x5: a numbered image of 4x4, a digit, and the output for a white
image of 8x8 under a kernel of equal weights.
"""

import sys
from pathlib import Path

import numpy as np

import cnn_jax
from cnn_jax.nn.padding import PADDINGS, resolve_pads

KERNEL = 5
SIDE, MARGIN, TOP = 216, 6, 24  # pixels
INK, ADDED, LINE, WINDOW = "#1a1a1a", "#ffe2b8", "#9a9a9a", "#0b62c4"


def padded(image_HW: np.ndarray, name: str) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """An image as the convolution sees it, and how much was added (low, high) to each axis."""
    amount, mode = PADDINGS[name]
    pads = resolve_pads(image_HW.shape, KERNEL, 1, 1, amount)
    return np.asarray(cnn_jax.pad(image_HW[None, :, :, None], pads, mode))[0, :, :, 0], pads


def response(name: str) -> np.ndarray:
    """Output of a kernel of equal weights, which add up to 1, for a white image of 8x8."""
    amount, mode = PADDINGS[name]
    image, kernel = np.ones((1, 8, 8, 1), np.float32), np.full((KERNEL, KERNEL, 1, 1), KERNEL**-2, np.float32)
    return np.asarray(cnn_jax.conv(image, kernel, padding=amount, padding_mode=mode))[0, :, :, 0]


def frame(title: str, parts: list[str]) -> str:
    width, height = SIDE + 2 * MARGIN, SIDE + MARGIN + TOP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    text = f'<text x="{width / 2:g}" y="16" font-size="12" fill="{INK}" text-anchor="middle">{title}</text>'
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([f'{head} font-family="sans-serif">', ground, text, *parts, "</svg>"]) + "\n"


def place(shape: tuple[int, ...], most: int) -> tuple[float, float, float]:
    """Size of a cell so that `most` fit, and the corner from which `shape` cells stand in the middle."""
    cell = SIDE / most
    return cell, MARGIN + (SIDE - cell * shape[1]) / 2, TOP + (SIDE - cell * shape[0]) / 2


def box(row: float, column: float, rows: int, columns: int, at: tuple[float, float, float], style: str) -> str:
    cell, x, y = at
    size = f'width="{columns * cell:g}" height="{rows * cell:g}"'
    return f'<rect x="{x + column * cell:g}" y="{y + row * cell:g}" {size} {style}/>'


def numbers(name: str) -> str:
    """A numbered image of 4x4; added positions are coloured, and the first window of the kernel is outlined."""
    image = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    values, pads = padded(image, name)
    (top, _), (left, _) = pads
    at = cell, x, y = place(values.shape, 12)
    parts = []
    for (i, j), value in np.ndenumerate(values):
        is_image = top <= i < top + 4 and left <= j < left + 4
        parts.append(box(i, j, 1, 1, at, f'fill="{"#fff" if is_image else ADDED}" stroke="{LINE}"'))
        where = f'x="{x + (j + 0.5) * cell:g}" y="{y + (i + 0.72) * cell:g}"'
        weight = ' font-weight="bold"' if is_image else ""
        parts.append(f'<text {where} font-size="10" fill="{INK}" text-anchor="middle"{weight}>{value:g}</text>')
    window = min(KERNEL, *values.shape)
    if window == KERNEL:  # 'valid' leaves no room for it
        parts.append(box(0, 0, KERNEL, KERNEL, at, f'fill="none" stroke="{WINDOW}" stroke-width="2"'))
    return frame(f"{name}: {' x '.join(map(str, values.shape))}", parts)


def shades(values: np.ndarray, at: tuple[float, float, float]) -> list[str]:
    """Values from 0 to 1, black to white; equal neighbours of a row are one rectangle."""
    parts = []
    for i, row in enumerate(np.rint(values * 255).astype(int)):
        starts = [j for j in range(len(row)) if j == 0 or row[j] != row[j - 1]]
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            style = f'fill="#{row[start]:02x}{row[start]:02x}{row[start]:02x}" shape-rendering="crispEdges"'
            parts.append(box(i, start, 1, end - start, at, style))
    return parts


def digit(name: str) -> str:
    """A digit of scikit-learn; its own border is outlined."""
    from sklearn.datasets import load_digits

    values, pads = padded(load_digits().images[3].astype(np.float32) / 16, name)
    at = place(values.shape, 16)
    outline = box(pads[0][0], pads[1][0], 8, 8, at, f'fill="none" stroke="{WINDOW}" stroke-width="2"')
    return frame(f"digit: 8 x 8 becomes {' x '.join(map(str, values.shape))}", [*shades(values, at), outline])


def white(name: str) -> str:
    """The output for a white image: where it is darker than white, the network can read the border."""
    values = response(name)
    at = place(values.shape, 12)
    outline = box(0, 0, *values.shape, at, f'fill="none" stroke="{LINE}"')
    title = f"output {' x '.join(map(str, values.shape))}, {values.min():.2f} to {values.max():.2f}"
    return frame(title, [*shades(np.minimum(values, 1), at), outline])


def pictures() -> dict[str, str]:
    """The text of every picture by the name of its file."""
    kinds = {"numbers": numbers, "digit": digit, "white": white}
    return {f"{name}-{kind}.svg": draw(name) for name in PADDINGS for kind, draw in kinds.items()}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures/padding")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pictures().items():
        (folder / name).write_text(text)
    print(f"{len(pictures())} pictures in {folder}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
