"""Jobs of a Slurm cluster that is played by scripts: what Slurm and submitit are told is real, and so are the processes."""

import os
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import fake_slurm
import pytest
from launching import ROOT, begin, results, until

from cnn_jax.execution.backends import mailbox
from cnn_jax.execution.backends.mailbox import Inbox, Outbox
from cnn_jax.records import store


class Cluster:
    """A cluster with a sweep for it."""

    def __init__(self, home: Path, npz: str):
        self.environment, self.state, self.home = fake_slurm.install(home / "cluster"), home / "cluster" / "state", home
        self.args = [
            f"--dataset={npz}", "--filters=4", "--kernel_size=3", "--padding=same", "--epochs=1500", "--batch_size=8",
            "--seeds=4", "--checkpoint_seconds=0.2",
        ]  # fmt: skip

    def launch(self, *args: str, **environment: str) -> subprocess.Popen:
        return begin(*self.args, *args, env=self.environment | environment)

    def submit(self, out: Path, *args: str, **environment: str) -> subprocess.Popen:
        return self.launch("--executor=slurm", "--workers=2", f"--out={out}", *args, **environment)

    def running(self) -> list[str]:
        """Numbers of the jobs of which there are processes."""
        return [path.stem for path in self.state.glob("*.pid") if alive(int(path.read_text() or "0"))]


def alive(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def done(process: subprocess.Popen, status: int = 0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err + out
    assert "Traceback" not in err + out
    return err if status else err + out


@pytest.fixture
def cluster(npz: str, tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, npz)


@pytest.mark.slow
def test_jobs_die_and_leave_and_the_driver_is_interrupted_and_nothing_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    calm, out = tmp_path / "calm", tmp_path / "out"
    done(cluster.launch(f"--out={calm}"))

    driver = cluster.submit(out)
    until(lambda: driver.poll() is not None or list(out.glob("trials/*/checkpoint-*")))
    assert stat.S_IMODE((out / "slurm").stat().st_mode) == 0o700
    driver.send_signal(signal.SIGINT)
    assert "rerun the same command to resume" in done(driver, 130)
    until(lambda: not cluster.running(), 5)
    assert not (out / "slurm").exists()
    assert list(out.glob("trials/*/checkpoint-*"))
    assert len(results(out)) < 4

    driver = cluster.submit(out)
    until(lambda: driver.poll() is not None or len(cluster.running()) == 2)
    killed, told = cluster.running()
    until(lambda: driver.poll() is not None or all(works(out)))
    fake_slurm.deliver(killed, signal.SIGKILL, cluster.state)
    fake_slurm.deliver(told, signal.SIGUSR2, cluster.state)
    heard = done(driver)
    assert f"worker died (job {killed}: FAILED)" in heard
    assert "a worker was told to stop" in heard
    assert results(out) == results(calm)
    assert store.lost_params(out) == set()
    assert not cluster.running()
    assert not [path for path in out.rglob("*") if path.suffix in (".pkl", ".pickle") or path.name == "slurm"]


def works(out: Path) -> list[bool]:
    """Whether each of the jobs has begun to train."""
    return [b'"images"' in path.read_bytes() for path in out.glob("slurm/*/events.jsonl")] or [False]


def test_a_driver_that_was_killed_leaves_no_jobs_to_the_next(cluster: Cluster, tmp_path: Path) -> None:
    out, long = tmp_path / "out", ["--epochs=9000", "--checkpoint_seconds=600"]
    driver = cluster.submit(out, *long)
    until(lambda: driver.poll() is not None or any(works(out)))
    driver.kill()
    driver.communicate()
    old = cluster.running()
    assert old
    (cluster.state / "full").touch()  # the next has no job yet, but those before it go
    driver = cluster.submit(out, *long)
    until(lambda: not cluster.running(), 20)
    driver.send_signal(signal.SIGTERM)
    done(driver, 130)
    (cluster.state / "full").unlink()
    assert {(cluster.state / f"{number}.state").read_text() for number in old} == {"COMPLETED"}
    assert list(out.glob("trials/*/checkpoint-*"))


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        (["--workers=2"], {"PATH": "/nonexistent"}, "sbatch is not installed"),
        ([], {}, "--workers"),
        (["--workers=2", "--out=gs://bucket/x"], {}, "all nodes share"),
    ],
)
def test_what_cannot_be_is_one_line(
    flags: list[str], environment: dict[str, str], named: str, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import objects")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests")])
    environment = {"PYTHONPATH": path, "OBJECTS": str(tmp_path / "bucket"), **environment}
    told = done(cluster.launch("--executor=slurm", f"--out={tmp_path / 'out'}", *flags, **environment), 2)
    assert told.count("\n") == 1
    assert named in told
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "bucket").exists()


def test_without_submitit_one_line_says_what_to_install(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "submitit.py").write_text("raise ImportError('as on a machine without it')")
    told = done(cluster.submit(tmp_path / "out", PYTHONPATH=str(tmp_path)), 2)
    assert told.count("\n") == 1
    assert "requirements-slurm.txt" in told
    assert not (tmp_path / "out").exists()


def test_what_sbatch_refuses_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    told = done(cluster.submit(tmp_path / "out", SBATCH_PARTITION="nowhere"), 2)
    assert told.count("\n") == 1
    assert "--executor=slurm: sbatch: error: invalid partition specified: nowhere" in told


def test_jobs_that_cannot_begin_are_no_endless_loop(cluster: Cluster, tmp_path: Path) -> None:
    """As on nodes that lack our Python, or do not see --out."""
    (cluster.home / "cluster" / "bin" / "srun").write_text("#!/bin/sh\nexit 127\n")
    told = done(cluster.submit(tmp_path / "out"), 1)
    assert told.count("\n") == 1
    assert "workers die at start-up (job " in told
    assert "FAILED; is --out in a file system that the nodes share?): see " in told


# ------------------------------------------------------------------------------------------------------------- mailboxes


def test_messages_arrive_whole_and_once(tmp_path: Path) -> None:
    outbox, inbox = Outbox(tmp_path / "x"), Inbox(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        inbox.receive()
    outbox.send({"a": "a line\nof two"})
    outbox.send(None)
    with open(outbox.path, "ab") as file:
        file.write(b'{"b": ')
    assert inbox.receive() == [{"a": "a line\nof two"}]
    assert inbox.receive() == []
    with open(outbox.path, "ab") as file:
        file.write(b"1}\n")
    assert inbox.receive() == [{"b": 1}]


@pytest.mark.parametrize("noise", [b"\xff\xfe\n", b"{\n", b"7\n", b"[]\n"])
def test_noise_is_no_message(noise: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(noise)
    with pytest.raises(ValueError):  # noqa: PT011 (JSON's and Unicode's are of this kind)
        Inbox(tmp_path / "x").receive()


@pytest.mark.parametrize("end", ["removed", "damaged", "silent"])
def test_messages_end_when_nobody_is_there(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "POLL", 0.01)
    monkeypatch.setattr(mailbox, "HEARTBEAT", 0.05)
    monkeypatch.setattr(mailbox, "SILENCE", 0.4 if end == "silent" else 60)
    theirs, mine, heard = Outbox(tmp_path / "tasks"), Outbox(tmp_path / "events"), []
    theirs.send({"n": 1})
    thread = threading.Thread(target=lambda: heard.extend(Inbox(theirs.path).messages(mine)))
    thread.start()
    for _ in range(12):  # longer than the silence that would end it
        theirs.heartbeat()
        time.sleep(0.06)
    assert thread.is_alive()
    if end == "removed":
        theirs.path.unlink()
    elif end == "damaged":
        theirs.path.write_bytes(b"?" * 200 + b"\n")
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert heard == [{"n": 1}]
    assert set(mine.path.read_bytes()) == {ord("\n")}  # it gave signs of life
