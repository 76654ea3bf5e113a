"""Locks between processes (cnn_jax/locks.py)."""

import subprocess
import sys
import threading
from pathlib import Path

from cnn_jax import locks


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with locks.acquire(tmp_path / "lock"):
        assert locks.acquire(tmp_path / "lock", wait=False) is None
    again = locks.acquire(tmp_path / "lock", wait=False)
    assert again is not None
    again.close()


def test_who_waits_gets_it_when_it_is_released(tmp_path: Path) -> None:
    first, got = locks.acquire(tmp_path / "lock"), threading.Event()

    def wait() -> None:
        with locks.acquire(tmp_path / "lock"):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.3)
    first.close()
    assert got.wait(60)
    thread.join(60)


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from cnn_jax import locks; file = locks.acquire(Path(sys.argv[1]));"
    code += "print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert locks.acquire(tmp_path / "lock", wait=False) is None
        process.kill()
    with locks.acquire(tmp_path / "lock"):
        pass
