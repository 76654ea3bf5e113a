"""Random kills, damage and faults, one after another, and then the same results as of an undisturbed run.

`make chaos` runs the long one; CHAOS_EVENTS and CHAOS_SEED say how much of it, and which.
"""

import collections
import contextlib
import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_jax.records import store

ROOT = Path(__file__).resolve().parents[1]
# A trial takes a second or two, so that most of what happens happens in the middle of some.
SWEEP = ["--filters=4,8", "--kernel_size=3,5", "--padding=same", "--epochs=1500", "--batch_size=8", "--seeds=2"]
TIMES = {"train_seconds", "compile_seconds", "finished", "images_per_second", "command"}  # columns that may differ


class Ordeal:
    """A sweep that is started again and again while `happen` does something to it."""

    def __init__(self, args: list[str], home: Path, seed: int):
        self.args, self.home, self.random = args, home, random.Random(seed)
        self.out, self.cache = home / "out", home / "cache"
        self.environment = os.environ | {"CNN_JAX_CACHE": str(self.cache)}
        self.happened: collections.Counter[str] = collections.Counter()
        self.midway = 0  # events when a trial had a checkpoint

    def start(self, out: Path | None = None, limit: int | None = None) -> subprocess.Popen:
        """Gives the command. limit: bytes that no file may exceed, which is how a full disk looks to a process."""

        def before() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *self.args, "--checkpoint_seconds=0.2", f"--out={out or self.out}"],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before,
        )  # fmt: skip

    def end(self, process: subprocess.Popen, allowed: tuple[int, ...]) -> int:
        """Waits for a command; whatever happened to it, it must have ended in one of these ways, without a traceback."""
        out, err = process.communicate(timeout=300)
        assert process.returncode in allowed, (process.returncode, out, err, self.happened)
        assert "Traceback" not in err + out, err
        return process.returncode

    # ------------------------------------------------------------------------------------------------ what can happen

    def kill_all(self, process: subprocess.Popen) -> None:
        for pid in [process.pid, *workers(process)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.end(process, (-9, 0))

    def kill_parent(self, process: subprocess.Popen) -> None:
        process.kill()
        self.end(process, (-9, 0))

    def kill_worker(self, process: subprocess.Popen) -> None:
        if found := workers(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(found), signal.SIGKILL)

    def terminate(self, process: subprocess.Popen) -> None:
        self.stop(process, signal.SIGTERM)

    def interrupt(self, process: subprocess.Popen) -> None:
        self.stop(process, signal.SIGINT)

    def stop(self, process: subprocess.Popen, number: int) -> None:
        process.send_signal(number)
        self.end(process, (130, 0, -number))  # it was done already; or it had not begun to listen

    def suspend(self, process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.1, 1.5))
        process.send_signal(signal.SIGCONT)

    def second_launch(self, process: subprocess.Popen) -> None:
        self.end(self.start(), (2, 0))

    def full_disk(self, process: subprocess.Popen) -> None:
        self.kill_parent(process)
        self.end(self.start(limit=self.random.choice([0, 100, 1000, 3000, 8000, 20000, 60000])), (0, 1, 2))

    def folder_away(self, process: subprocess.Popen) -> None:
        away = self.out.with_name("away")
        with contextlib.suppress(OSError):
            os.rename(self.out, away)
        self.end(process, (0, 1))
        if away.exists():
            shutil.rmtree(self.out, ignore_errors=True)
            os.rename(away, self.out)

    def damage_while_running(self, process: subprocess.Popen) -> None:
        self.hurt(self.files(self.out))

    def damage_between(self, process: subprocess.Popen) -> None:
        self.kill_all(process)
        for _ in range(self.random.randint(1, 5)):
            self.hurt(self.files(self.out) + self.files(self.cache))

    def remove_part(self, process: subprocess.Popen) -> None:
        self.kill_all(process)
        part = self.random.choice(["records", "plan", "trials", "logs", "sweep.json", "lock"])
        path = self.out / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def clock_jumps(self, process: subprocess.Popen) -> None:
        for path in self.files(self.out):
            with contextlib.suppress(OSError):
                os.utime(path, (self.random.uniform(0, 4e9),) * 2)

    def files(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def hurt(self, files: list[Path]) -> None:
        """Cuts, fills, flips or removes one of the files."""
        if not files:
            return
        path = self.random.choice(files)
        with contextlib.suppress(FileNotFoundError):
            data = bytearray(path.read_bytes())
            match self.random.choice(["cut", "noise", "flip", "remove", "empty"]):
                case "cut":
                    data = data[: self.random.randrange(len(data) + 1)]
                case "noise":
                    data = bytearray(self.random.randbytes(len(data)))
                case "flip" if data:
                    data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
                case "remove":
                    path.unlink()
                    return
                case "empty":
                    data = bytearray()
            path.write_bytes(data)

    # ---------------------------------------------------------------------------------------------------------- the run

    def endure(self, events: int, kinds: list[str] | None = None) -> int:
        """Lets so many events happen, over as many sweeps as it takes; every sweep's end is compared. Returns their number."""
        calm = self.home / "calm"
        self.end(self.start(out=calm), (0,))
        expected, sweeps = state(calm), 0
        kinds = kinds or [
            "kill_all", "kill_parent", "kill_worker", "kill_worker", "terminate", "interrupt", "suspend", "second_launch",
            "full_disk", "folder_away", "damage_while_running", "damage_between", "damage_between", "remove_part",
            "clock_jumps",
        ]  # fmt: skip
        left = list(kinds)
        while sum(self.happened.values()) < events:
            shutil.rmtree(self.out, ignore_errors=True)
            sweeps += 1
            for _ in range(self.random.randint(3, 9)):
                process = self.start()
                self.wait(process)
                if not left:
                    left = list(kinds)
                name = left.pop(self.random.randrange(len(left)))
                self.happened[name] += 1
                self.midway += any(self.out.glob("trials/*/checkpoint-*"))
                getattr(self, name)(process)
                assert process.stdout
                if not process.stdout.closed:  # its end was not looked at
                    if self.random.random() < 0.5:
                        process.kill()
                    # Damage may have taken a record away again; of two launches, the second may have been the faster.
                    self.end(process, (0, 1, -9, 2) if name == "second_launch" else (0, 1, -9))
                if sum(self.happened.values()) >= events:
                    break
            self.end(self.start(), (0,))
            assert state(self.out) == expected, self.happened
        return sweeps

    def wait(self, process: subprocess.Popen) -> None:
        """Until a random moment: while it starts, compiles or trains."""
        end = time.monotonic() + self.random.choice([0.4, 1, 2, 4, 6]) * self.random.uniform(0.5, 1)
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)


def workers(process: subprocess.Popen) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def state(out: Path) -> dict[str, Any]:
    """All that must not depend on what happened: records, parameters, the table, the files that are left."""
    names = ("config", "status", "history", "test_loss", "test_correct", "params_sha256", "data", "macs", "params")
    with open(out / "results.csv", newline="") as file:
        table = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    return {
        "records": {record["trial"]: [record[name] for name in names] for record in store.read(out)},
        "lost": store.lost_params(out),
        "table": table,
        "plan": store.plan(out),
        "files": sorted(str(path.relative_to(out)) for path in (out / "trials").rglob("*")),
    }


@pytest.fixture
def ordeal(npz: str, tmp_path: Path) -> Callable[[int], Ordeal]:
    return lambda seed: Ordeal([f"--dataset={npz}", *SWEEP], tmp_path, seed)


@pytest.mark.slow
def test_five_events_change_nothing(ordeal: Callable[[int], Ordeal]) -> None:
    it = ordeal(1)
    it.args = [*it.args[:1], "--filters=4", "--kernel_size=3", "--padding=same", "--epochs=1500", "--batch_size=8", "--seeds=2"]
    it.endure(5, ["kill_all", "kill_worker", "terminate", "damage_between", "remove_part"])
    assert sum(it.happened.values()) == 5


@pytest.mark.slow
@pytest.mark.chaos
def test_many_events_change_nothing(ordeal: Callable[[int], Ordeal]) -> None:
    it = ordeal(int(os.environ.get("CHAOS_SEED", "0")))
    began, events = time.monotonic(), int(os.environ.get("CHAOS_EVENTS", "60"))
    sweeps = it.endure(events)
    assert it.midway
    told = ", ".join(f"{count} {name}" for name, count in sorted(it.happened.items()))
    how = f"{it.midway} of them with a trial half-way"
    print(f"\n{events} events ({how}) in {sweeps} sweeps, {time.monotonic() - began:.0f} s, no difference: {told}")
