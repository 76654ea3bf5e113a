"""Markup in a text of a record, a plan or a file of another tool stays text: pages are safe to open."""

import html.parser
import json
from collections import Counter
from pathlib import Path
from typing import Any

import synthetic

from cnn_jax import cli, report
from cnn_jax.trial import Trial

EVIL = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script></script><!--&"


class Elements(html.parser.HTMLParser):
    """Counts elements, and collects attributes that run code or leave the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.dangerous: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            leaves = name in ("src", "href", "action", "data") and not (value or "").startswith(("data:", "#"))
            if name.startswith("on") or leaves:
                self.dangerous.append((tag, name, value))


def hostile(value: Any, key: str = "") -> Any:
    """The same value with markup behind its free texts; of fields that have a syntax nothing is changed."""
    if isinstance(value, dict):
        return {name: hostile(part, name) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [hostile(part, key) for part in value]
    free = key in (
        "dataset",
        "model_name",
        "reason",
        "device",
        "command",
        "jax",
        "python",
        "commit",
        "checksum",
        "name",
        "shortcut",
    )
    return value + EVIL if isinstance(value, str) and free else value


def check(text: str, clean: str) -> None:
    found, wanted = Elements(text), Elements(clean)
    assert EVIL not in text
    assert found.dangerous == wanted.dangerous
    assert found.tags["script"] == wanted.tags["script"]


def records(*, evil: bool) -> list[dict[str, Any]]:
    found = synthetic.sweep(filters=(8, 16), kernels=(3,), seeds=2)
    found.append(found[0] | {"status": "failed", "reason": "out of memory", "test_accuracy": None, "val_accuracy": None})
    found[-1]["config"] = found[-1]["config"] | {"seed": 7}
    found = [json.loads(json.dumps(record)) for record in found]
    if evil:
        found = [hostile(record) for record in found]
    for record in found:
        record["trial"] = Trial.from_json(json.dumps(record["config"])).id
    return found


def test_markup_in_records_is_text_in_the_report(tmp_path: Path) -> None:
    pages = [report.write(synthetic.folder(tmp_path / str(evil), records(evil=evil))).read_text() for evil in (True, False)]
    check(*pages)
    assert "onerror" in pages[0]  # the texts are shown


def test_markup_in_a_file_of_another_tool_is_text_in_the_report(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pages = []
    for name, word in (("evil", EVIL.replace('"', '""')), ("clean", "word")):
        rows = [f'"{factor}{word}",{seed},{0.9 + seed / 100},"{word}"' for factor in ("a", "b") for seed in range(3)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f'"width{word}",seed,accuracy,note', *rows]) + "\n")
        assert cli.launch(["launch.py", "report", f"{name}.csv", f"--out={name}"]) == 0
        pages.append(next((tmp_path / name).glob("*.html")).read_text())
    check(*pages)


def test_the_test_would_see_markup() -> None:
    assert Elements(EVIL).dangerous
