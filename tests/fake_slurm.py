"""A Slurm cluster of this machine alone, for tests: sbatch, srun, sacct and scancel, as far as submitit uses them.

`install` puts the commands on a PATH; their state is in the folder FAKE_SLURM: ID.state, ID.pid. A job runs at once, or
waits as long as there is a file `full`.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ.get("FAKE_SLURM", "."))


def install(folder: Path) -> dict[str, str]:
    """Makes the commands; returns the environment in which they are found."""
    for name in ("bin", "state"):
        (folder / name).mkdir(parents=True)
    for name in COMMANDS:
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {name} "$@"\n')
        path.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(folder / "state")}


def sbatch(script: str) -> None:
    if "nowhere" in os.environ.get("SBATCH_PARTITION", ""):
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    text = Path(script).read_text()
    number = 1
    while True:
        with contextlib.suppress(FileExistsError):
            open(HOME / f"{number}.state", "x").close()
            break
        number += 1
    (HOME / f"{number}.sh").write_text(text)  # it has its own copy, as slurmctld
    if os.fork() == 0:
        os.setsid()
        for fd in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
        _run(str(number))
        os._exit(0)
    print(f"Submitted batch job {number}")


def _run(number: str) -> None:
    state = HOME / f"{number}.state"
    state.write_text("PENDING")
    while (HOME / "full").exists():
        if state.read_text() != "PENDING":
            return
        time.sleep(0.05)
    state.write_text("RUNNING")
    job = subprocess.Popen(
        ["bash", str(HOME / f"{number}.sh")], env=os.environ | {"SLURM_JOB_ID": number}, start_new_session=True
    )
    (HOME / f"{number}.pid").write_text(str(job.pid))
    code = job.wait()
    if state.read_text() == "RUNNING":
        state.write_text("FAILED" if code else "COMPLETED")


def srun(*words: str) -> None:
    rest = list(words)
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option == "--output":
            file = os.open(rest.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1), os.dup2(file, 2)
    os.execvp(rest[0], rest)


def sacct(*words: str) -> None:
    print("JobID|State|NodeList")
    for option, number in itertools.pairwise(words):
        if option == "-j":
            print(f"{number}|{(HOME / f'{number}.state').read_text()}|here")
            print(f"{number}.batch|RUNNING|here")


def scancel(*numbers: str) -> None:
    for number in numbers:
        state = HOME / f"{number}.state"
        if state.read_text() in ("PENDING", "RUNNING"):
            state.write_text("CANCELLED by 0")
            deliver(number, signal.SIGTERM)


def deliver(number: str, which: int, home: Path = HOME) -> None:
    """Sends a signal to all processes of a job."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.killpg(int((home / f"{number}.pid").read_text()), which)


COMMANDS = {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scancel": scancel}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
