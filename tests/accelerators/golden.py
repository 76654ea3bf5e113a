"""What a training step may cost on each device: `golden.json`, which this command writes anew.

make accelerators-golden
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import programs
from hlo import Module

FILE = Path(__file__).with_name("golden.json")
# Network, lanes, precision, target.
CELLS = [
    (net, lanes, precision, target)
    for target in programs.TARGETS
    for net in programs.NETS
    for lanes, precision in ((1, "float32"), (16, "float32"), (16, "bfloat16"))
]


def name(net: str, lanes: int, precision: str, target: str) -> str:
    return f"{target} {net} {lanes} {precision}"


def recorded() -> Mapping[str, Mapping[str, Any]]:
    return json.loads(FILE.read_text())


def main() -> None:
    rows = {}
    for cell in CELLS:
        step = Module(programs.compiled(*cell).as_text()).step()
        rows[name(*cell)] = dataclasses.asdict(step)
        print(name(*cell), step, flush=True)
    lines = (f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
