"""A part's process: `python -m benchmarks.gpu.process PART REQUEST`, both JSON, prints a row as a line once it is measured."""

import dataclasses
import json
import os
import signal
import sys

from benchmarks.gpu.parts import Part
from benchmarks.gpu.settings import Request


def main() -> None:
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no row
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # ends contenders that run
    part, request = sys.argv[1:]
    for row in Part(**json.loads(part)).rows(Request.from_json(request)):
        print(json.dumps(dataclasses.asdict(row)), file=rows, flush=True)


if __name__ == "__main__":
    main()
