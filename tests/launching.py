"""The command line as tests use it: in a process of its own, or in this one, which saves a second of imports."""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from absl import flags

from cnn_jax import cli
from cnn_jax.records import store
from cnn_jax.trial import Trial

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_PY = (str(ROOT / "launch.py"),)
COMMANDS = (["describe"], ["report"], ["compare"], ["doctor"], ["inspect"], ["measure"], ["card"])


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The environment of this process with changes; None removes a variable."""
    return {name: value for name, value in (os.environ | dict(changes or {})).items() if value is not None}


def launch(
    *words: object, cwd: Path = ROOT, env: Mapping[str, str | None] | None = None, launcher: Sequence[str] = LAUNCH_PY,
    preexec_fn: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run launch.py, or another program of ours, to its end. `env`: as of `environment`."""
    return subprocess.run(
        [sys.executable, *launcher, *map(str, words)], cwd=cwd, env=environment(env), capture_output=True, text=True,
        errors="surrogateescape", timeout=300, preexec_fn=preexec_fn,
    )  # fmt: skip


def begin(
    *words: object, cwd: Path = ROOT, env: Mapping[str, str | None] | None = None, new_session: bool = False
) -> subprocess.Popen[str]:
    """Start launch.py."""
    return subprocess.Popen(
        [sys.executable, *LAUNCH_PY, *map(str, words)], cwd=cwd, env=environment(env), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=new_session,
    )  # fmt: skip


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for a condition; fail after `seconds`, a limit for a test that hangs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def here(*words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, with flags of its own; a sweep still has its workers."""
    before, path = flags.FLAGS, list(sys.path)
    flags.FLAGS = flags.FlagValues()
    argv = ["launch.py", *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.chdir(cwd or os.getcwd()), mock.patch.dict(os.environ, env or {}),
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        ):  # fmt: skip
            status = cli.launch(argv)
    finally:
        flags.FLAGS, sys.path[:] = before, path
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())


def plan(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A sweep is planned, not run; other commands run as they are."""
    first = list(words[:1]) if words and not words[0].startswith("-") else []
    return here(*words) if first in COMMANDS else here(*first, "--dry_run", *words[len(first) :])


def results(out: Path) -> dict[str, list[object]]:
    """By trial, what must be the same after any history."""
    names = ("status", "history", "test_loss", "test_correct", "params_sha256")
    return {record["trial"]: [record[name] for name in names] for record in store.read(out)}


class Silent:
    """Progress that nobody watches."""

    def trained(self, trials: Any, images: int, seconds: float) -> None: ...
    def compiled(self, trial: Trial, seconds: float) -> None: ...
    def restarted(self, trials: Any) -> None: ...
    def finished(self, trial: str, status: str, reason: str | None) -> None: ...
    def note(self, sentence: str) -> None: ...
    def tick(self, activity: Any) -> None: ...

    @contextlib.contextmanager
    def running(self, trials: Any) -> Iterator[None]:
        yield
