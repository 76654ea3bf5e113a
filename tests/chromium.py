"""Pages in Chromium, without a window."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM: the page's network is not tested: apt-get install chromium"
)


def dumped(page: str, folder: Path) -> str:
    """The page after its scripts have run."""
    path = folder / "page.html"
    path.write_text(page)
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=60000",
        "--dump-dom",
        path.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def output(text: str):
    """What a script wrote into the element `out`."""
    return json.loads(re.search(r'<pre id="out">(.*?)</pre>', text, re.S)[1])


def in_window(page: str, width: int, script: str, folder: Path):
    """What `script` gives to `out` in a window of that width; `page` is its document, `view` its window."""
    text = json.dumps(page).replace("<", "\\u003c")
    test = f"""<!doctype html><body><pre id="out"></pre><script>
    const frame = Object.assign(document.createElement("iframe"), {{ srcdoc: {text}, width: {width}, height: 844 }});
    frame.style.border = 0;
    frame.addEventListener("load", () => {{
      const view = frame.contentWindow, page = view.document, out = (value) =>
        document.getElementById("out").textContent = JSON.stringify(value);
      {script}
    }});
    document.body.append(frame);
    </script></body>"""
    return output(dumped(test, folder))
