"""Sequential execution of the parts, each in a separate process that may fail or be stopped. No JAX."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from benchmarks.contenders import ROOT
from benchmarks.gpu.parts import Part
from benchmarks.gpu.report import Report, Row, reason_of, warn
from benchmarks.gpu.settings import OVERRIDES, Ceilings, Request, Settings
from benchmarks.timing import end, inherited

LEAST_SECONDS = 5.0  # minimum remaining time to start a part
GRACE = 10.0  # time for a stopped part to end its processes


def run(parts: Sequence[Part], settings: Settings, report: Report, budget: float) -> None:
    """Run the parts within `budget` seconds; add rows, and reasons for missing ones, to the report."""
    deadline, ceilings = time.time() + budget, Ceilings()
    environment = {name: value for name, value in inherited().items() if name not in OVERRIDES} | settings.environment
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        for number, part in enumerate(parts):
            left = deadline - time.time()
            share = left * part.weight / sum(each.weight for each in parts[number:])
            report.begin(part.title, part.columns)
            if left < LEAST_SECONDS:
                report.add(part.name, part.columns, Row(what=part.name, status="no time", note=_used_up(budget)))
                continue
            own = Path(folder, part.name)
            own.mkdir()
            request = Request(settings, ceilings, str(own), time.time() + share)
            rows = []
            for row in run_part(part, request, environment):
                report.add(part.name, part.columns, row)
                rows.append(row)
            if part.name == "ceilings":
                ceilings = ceilings_of(rows)


def _used_up(budget: float) -> str:
    return f"the budget of {budget:.0f} s is used up; --parts runs parts alone"


def run_part(part: Part, request: Request, environment: Mapping[str, str]) -> Iterator[Row]:
    """Yield the rows printed by the process of a part; a failed row if it fails or is stopped."""
    command = [sys.executable, "-m", "benchmarks.gpu.process", json.dumps(dataclasses.asdict(part)), request.to_json()]
    seconds = max(request.left, 0.0)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            end(process, GRACE)

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            with process.stdout as lines:
                for line in lines:
                    yield Row(**json.loads(line))
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                end(process, GRACE)
        if stopped.is_set():
            yield Row(what=part.name, status="no time", note=f"stopped after {seconds:.0f} s, its share of the budget")
        elif status:
            told = _told(errors)
            warn(f"{part.name} failed with status {status}: {told[-2000:]}")
            yield Row(what=part.name, status="failed", note=reason_of(told) or f"ended with status {status}")


def _told(errors: IO[str]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 10_000))
    return errors.read().strip()


def ceilings_of(rows: Sequence[Row]) -> Ceilings:
    """Extract the ceilings from the rows of the part `ceilings`."""
    flops = {row.precision: row.tflops * 1e12 for row in rows if row.precision and row.tflops}
    bandwidths = [row.gigabytes * 1e9 for row in rows if row.gigabytes]
    return Ceilings(flops, max(bandwidths, default=None))
