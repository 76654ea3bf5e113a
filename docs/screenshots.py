"""Takes README's pictures of a report in a real Chromium, and checks that the page is clean in it.

    python docs/screenshots.py out/report.html docs/pictures

Writes report.png (desktop, light), report-dark.png and report-phone.png. Fails if the page writes to the console or asks
for anything outside itself. Needs chromium or google-chrome; nothing else in this project does.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Of a window's size in pixels; the phone is a frame inside, because a browser's own window cannot be that narrow.
VIEWS = {"report": (1200, 1700), "report-dark": (1200, 1700), "report-phone": (390, 844)}
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
)  # fmt: skip
FRAME = '<!doctype html><body style="margin:0"><iframe src="{}" style="width:{}px;height:{}px;border:0"></iframe>'


def shoot(browser: str, page: Path, picture: Path, size: tuple[int, int]) -> list[str]:
    """Takes one picture and returns what was wrong: console messages, and addresses asked for that are not files."""
    with tempfile.TemporaryDirectory() as profile:
        log = Path(profile) / "net.json"
        phone = picture.stem.endswith("phone")
        if phone:
            frame = Path(profile) / "frame.html"
            frame.write_text(FRAME.format(page.resolve().as_uri(), *size))
        address = (frame if phone else page).resolve().as_uri()
        dark = ["--blink-settings=preferredColorScheme=0"] if picture.stem.endswith("dark") else []
        window = f"--window-size={max(size[0], 500)},{size[1]}"
        options = [*QUIET, *dark, window, f"--user-data-dir={profile}", f"--log-net-log={log}", f"--screenshot={picture}"]
        run = subprocess.run([browser, *options, address], capture_output=True, text=True, timeout=120, check=True)
        wrong = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
        if phone:
            crop(picture, size)
        return wrong + [f"asked for {url}" for url in requests(log)]


def requests(log: Path) -> list[str]:
    """Addresses in a net log that the page asked for; what the browser asks for on its own account has no origin."""
    text = log.read_text()
    events = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")["events"]
    asked = [e["params"] for e in events if e.get("params", {}).get("initiator", "not an origin") != "not an origin"]
    return sorted({p["url"] for p in asked if not p["url"].startswith(("file:", "data:"))})


def crop(picture: Path, size: tuple[int, int]) -> None:
    """Cuts the frame out of the window."""
    from PIL import Image

    with Image.open(picture) as image:
        image.crop((0, 0, *size)).save(picture)


def main() -> int:
    """Returns 1 if the page is not clean, 2 if there is no browser or no report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    flags = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None or not flags.report.is_file():
        print(
            f"{flags.report}: no such file" if browser else "neither chromium nor google-chrome is installed", file=sys.stderr
        )
        return 2
    flags.out.mkdir(parents=True, exist_ok=True)
    wrong = [w for name, size in VIEWS.items() for w in shoot(browser, flags.report, flags.out.resolve() / f"{name}.png", size)]
    print("\n".join(wrong) or f"{len(VIEWS)} pictures in {flags.out}; console silent, nothing fetched", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
