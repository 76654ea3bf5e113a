"""Cores of workers when several sweeps run at once: row C4 of the reported faults."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest
from launching import ROOT, begin, until

from cnn_jax.execution import cores
from cnn_jax.execution.backends import local
from cnn_jax.execution.messages import WorkerConfig


@pytest.fixture
def four(tmp_path, monkeypatch):
    """A machine of four cores whose locks are in a folder of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cores, "allowed", lambda: [0, 1, 2, 3])
    probe, probed = cores._probe, []

    def kept(number):
        probed.append(probe(number))
        return probed[-1]

    monkeypatch.setattr(cores, "_probe", kept)
    yield
    for core in probed:
        core.release()


def test_c4_free_cores_first_then_those_with_the_fewest_holders(four):
    a, b, c = cores.Claims(), cores.Claims(), cores.Claims()
    assert a.take(1, shared=False) == [0]
    assert b.take(2, shared=False) == [1, 2]
    assert c.take(2, shared=False) == []  # one alone is free, and stays free
    assert c.take(1, shared=False) == [3]
    assert c.take(1, shared=False) == []
    assert c.take(2, shared=True) == [0, 1]
    assert a.take(1, shared=True) == [2]  # 3 has a holder too, 1 has two
    b.release([1, 2])
    assert c.take(1, shared=False) == []  # 1 is its own, 2 is a's
    a.release([0, 2])
    assert c.take(1, shared=False) == [2]


def test_c4_no_lock_outlives_its_process(four, tmp_path):
    code = "import time; from cnn_jax.execution import cores; cores.allowed = lambda: [0, 1]; c = cores.Claims(); "
    code += "print(c.take(1, shared=False), flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "[0]\n"
        mine = cores.Claims()
        assert mine.take(1, shared=False) == [1]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert mine.take(1, shared=False) == [0]


def test_c4_where_files_cannot_be_locked_cores_are_shared_out_all_the_same(four, tmp_path, monkeypatch):
    (tmp_path / f"cnn_jax-{os.getuid()}-cores").write_text("")  # not a folder
    mine = cores.Claims()
    assert [mine.take(1, shared=False), mine.take(2, shared=False)] == [[0], [1, 2]]


def processes(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(local, "accelerator", lambda: False)
    return local.LocalBackend(WorkerConfig(str(tmp_path), False, 1.0, {}), workers)


def grow(backend):
    """Starts all workers that can run now; returns their cores."""
    while backend.size > len(backend.workers):
        number = len(backend.workers)
        backend.cores[number], backend.workers[number] = backend.spare.pop(), None
    return list(backend.cores.values())


def test_c4_how_many_workers_a_sweep_gets_beside_others(four, tmp_path, monkeypatch):
    other = processes(tmp_path, 3, monkeypatch)
    assert grow(other) == [[0], [1], [2]]
    default = processes(tmp_path, None, monkeypatch)
    assert grow(default) == [[3]]  # what is free
    asked = processes(tmp_path, 2, monkeypatch)
    assert grow(asked) == [[0], [1]]  # as many as were asked for
    late = processes(tmp_path, None, monkeypatch)
    assert grow(late) == [[2], [3], [0], [1]]  # all are held: shared
    for ended in (other, late):
        for mine in ended.cores.values():
            ended.claims.release(mine)
    assert grow(default) == [[3], [2]]  # freed meanwhile


def affinities(pid):
    """Of a sweep's workers."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "cnn_jax.execution.worker"], capture_output=True, text=True)
    with_affinity = [os.sched_getaffinity(int(word)) for word in found.stdout.split()]
    return [mine for mine in with_affinity if len(mine) == 1]  # it is pinned in a moment


def test_c4_two_sweeps_at_once_have_different_cores(npz, tmp_path):
    begun, found = [], []
    try:
        for name in "ab":
            args = ["--filters=8", "--kernel_size=3", "--padding=same", "--epochs=9999", "--batch_size=4", "--workers=1"]
            begun.append(begin(f"--dataset={npz}", *args, f"--out={tmp_path / name}", env={"TMPDIR": str(tmp_path)}))

        def pinned():
            found[:] = [affinities(process.pid) for process in begun]
            return all(found)

        until(pinned)
    finally:
        for process in begun:
            process.terminate()
        for process in begun:
            process.communicate()
    (a,), (b,) = found
    assert len(a | b) == min(2, len(os.sched_getaffinity(0)))
