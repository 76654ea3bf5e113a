"""Makes the pictures of the tutorial from the sweeps that its commands leave in a folder.

    python docs/tutorial_pictures.py runs docs/pictures/tutorial

Needs chromium or google-chrome for the page of `inspect`.
"""

import shutil
import sys
from pathlib import Path

SWEEPS = ("grid", "padding", "mine")  # a card of each
INSPECTED = "grid"


def window() -> str:
    """The positions of a 3x3 kernel with stride 2 on an image of 7x7, and its output."""
    from padding_pictures import ADDED, LINE, WINDOW, box, frame, place

    from cnn_jax.nn.padding import output_size

    n, k, s = 7, 3, 2
    size = output_size(n, k, s, 1, 0, 0)
    at = place((n, n), 12)
    at = (at[0], 6.0, at[2])
    parts = [box(i, j, 1, 1, at, f'fill="#fff" stroke="{LINE}"') for i in range(n) for j in range(n)]
    centre = k // 2
    parts += [
        box(i * s + centre, j * s + centre, 1, 1, at, f'fill="{ADDED}" stroke="{LINE}"')
        for i in range(size)
        for j in range(size)
    ]
    parts += [box(0, j * s, k, k, at, f'fill="none" stroke="{WINDOW}" stroke-width="2"') for j in range(size)]
    beside = (at[0], at[1] + (n + 1.5) * at[0], at[2] + (n - size) / 2 * at[0])
    parts += [box(i, j, 1, 1, beside, f'fill="{ADDED}" stroke="{LINE}"') for i in range(size) for j in range(size)]
    return frame(f"floor(({n} - {k}) / {s}) + 1 = {size}", parts)


def main() -> int:
    """Returns 1 if the page of `inspect` asks for anything outside itself, 2 if there is no browser."""
    from screenshots import shoot

    from cnn_jax import report
    from cnn_jax.records import store

    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    (out / "window.svg").write_text(window())
    for name in SWEEPS:
        report.write_card(store.folder(str(runs / name)), store.folder(str(out / f"{name}.png")))
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("neither chromium nor google-chrome is installed", file=sys.stderr)
        return 2
    wrong = shoot(browser, runs / INSPECTED / "inspect" / "inspect.html", out.resolve() / "inspect.png", (1000, 900))
    print("\n".join(wrong) or f"{len(SWEEPS) + 2} pictures in {out}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
