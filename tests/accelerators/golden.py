"""What a training step may cost on each device: `golden.json`, which `make accelerators-golden` writes anew.

golden.py [WORD ...]     only the cells whose names have all the words, as h100 or resnet20
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import programs
from hlo import Module

FILE = Path(__file__).with_name("golden.json")
# Network, lanes, precision, target: one lane, and as many as a sweep of many seeds has.
CELLS = [
    (net, lanes, precision, target)
    for target in programs.TARGETS
    for net in programs.NETS
    for lanes, precision in dict.fromkeys(
        ((1, "float32"), (programs.lanes(net, target), "float32"), (programs.lanes(net, target), "bfloat16"))
    )
]


def name(net: str, lanes: int, precision: str, target: str) -> str:
    return f"{target} {net} {lanes} {precision}"


def recorded() -> dict[str, dict[str, Any]]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def main(words: list[str]) -> None:
    for cell in CELLS:
        if set(words) <= set(name(*cell).split()):
            step = Module(programs.compiled(*cell).as_text()).step()
            print(name(*cell), step, flush=True)
            _write(recorded() | {name(*cell): dataclasses.asdict(step)})


def _write(rows: dict[str, dict[str, Any]]) -> None:
    """A line for each cell, so that a change is read in a diff."""
    lines = (f"  {json.dumps(key)}: {json.dumps(rows[key])}" for key in (name(*cell) for cell in CELLS) if key in rows)
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
