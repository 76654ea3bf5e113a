"""Process of a part: `python -m benchmarks.gpu.process PART REQUEST`, both JSON, prints a line per row when measured."""

import dataclasses
import json
import os
import signal
import sys

from benchmarks.gpu.parts import Part
from benchmarks.gpu.settings import Request


def main() -> None:
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries is not a row
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # ends running contenders
    part, request = sys.argv[1:]
    for row in Part(**json.loads(part)).rows(Request.from_json(request)):
        print(json.dumps(dataclasses.asdict(row)), file=rows, flush=True)


if __name__ == "__main__":
    main()
