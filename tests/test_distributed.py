"""More than one device, more than one process, more than one machine: the same numbers."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from launching import ROOT, begin, results, until

from cnn_jax.records import store


def launch(*args: str, **environment: str) -> subprocess.Popen[str]:
    return begin(*args, env=environment)


def done(process: subprocess.Popen, status: int = 0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err + out
    assert "Traceback" not in err + out
    return out + err


# ------------------------------------------------------------------------------------------------------------------ Ray


def test_without_ray_one_line_says_what_to_install(tmp_path: Path, npz: str) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('as on a machine without it')")
    args = [f"--dataset={npz}", "--filters=2", "--kernel_size=3", "--padding=valid", "--executor=ray", f"--out={tmp_path}/o"]
    told = done(launch(*args, PYTHONPATH=str(tmp_path)), 2)
    assert told.count("\n") == 1
    assert "requirements-ray.txt" in told
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_is_interrupted_then_a_node_dies_and_nothing_is_lost(npz: str, tmp_path: Path) -> None:
    """Two nodes on loopback with a core each; the records are those of local workers, to the bit."""
    from ray.cluster_utils import Cluster

    out = tmp_path / "out"
    args = [
        f"--dataset={npz}",
        "--filters=4,8",
        "--kernel_size=3",
        "--padding=same",
        "--epochs=500",
        "--batch_size=8",
        "--seeds=5",
    ]
    done(launch(*args, f"--out={tmp_path}/calm"))
    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        second = cluster.add_node(**node)
        began = functools.partial(launch, *args, "--executor=ray", f"--out={out}", RAY_ADDRESS=cluster.address)
        process = began()
        until(lambda: process.poll() is not None or list(out.glob("records/*")))
        process.send_signal(signal.SIGINT)
        assert "rerun the same command to resume" in done(process, 130)
        kept = len(store.read(out))
        assert 1 <= kept < 9
        process = began()
        raylet = second.all_processes["raylet"][0].process.pid
        until(lambda: process.poll() is not None or (len(store.read(out)) > kept and held_in_a_task(raylet)))
        (worker,) = at_work(raylet)
        cluster.remove_node(second, allow_graceful=False)
        os.kill(worker, signal.SIGKILL)  # it was held: it could not see that its node is gone
        assert "worker died" in done(process)
        told = done(launch(*args, "--executor=ray", "--devices=2", f"--out={tmp_path}/o", RAY_ADDRESS=cluster.address), 2)
        assert "--devices: no machine of the cluster has 2 CPUs" in told
        assert "RAY_ADDRESS=127.0.0.1:1" in done(
            launch(*args, "--executor=ray", f"--out={tmp_path}/p", RAY_ADDRESS="127.0.0.1:1"), 2
        )
        assert not (tmp_path / "p").exists()
    finally:
        cluster.shutdown()
    assert results(out) == results(tmp_path / "calm")
    assert store.lost_params(out) == set()


def at_work(raylet: int) -> list[int]:
    """The processes of a node that are in the middle of a task of ours."""
    told = subprocess.run(["ps", "--ppid", str(raylet), "-o", "pid=,args="], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in told.splitlines() if "ray::_work" in line]


def held_in_a_task(raylet: int) -> bool:
    """Stops a node's process in the middle of a task, so that it neither ends nor answers before the node dies."""
    for pid in at_work(raylet):
        os.kill(pid, signal.SIGSTOP)
        if at_work(raylet) == [pid]:
            return True
        os.kill(pid, signal.SIGCONT)  # it was just done
    return False


# -------------------------------------------------------------------------------------------------------- many devices

CURVES = """
    import json, sys
    import jax
    from cnn_jax import data
    from cnn_jax.training.position import advance, finished, start
    from cnn_jax.training.program import DeviceData, compile_program
    from cnn_jax.training.result import results
    from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

    model = ModelConfig(filters=(4, 6), kernel_size=(3, 3), padding="same", strides=(1, 1))
    rich = {"augment": "shift:1+mixup", "ema": 0.9, "schedule": "cosine", "label_smoothing": 0.1}
    rich = rich if sys.argv[2] == "rich" else {}
    trial = Trial(model, DataConfig(sys.argv[1]), TrainConfig(epochs=3, batch_size=40, **rich))
    found = {}
    for count in (1, 8):
        dataset = DeviceData.put(data.load(trial.data), jax.devices()[:count])
        program = compile_program(trial, 1, dataset)
        position = start(program, [trial], dataset)
        while not finished([trial], position):
            position = advance(program, [trial], dataset, position, 3)
        (result,) = results(program, [trial], dataset, position)
        kernel = position.state.params["conv1"]["kernel"]
        found[count] = {
            "loss": [row["train_loss"] for row in result.history], "test_loss": result.test_loss,
            "devices": len(kernel.sharding.device_set), "reduces": "all-reduce" in program.train.as_text(),
        }
    print(json.dumps(found))
"""


@pytest.mark.parametrize("recipe", ["plain", "rich"])
@pytest.mark.slow
def test_eight_devices_give_the_loss_curve_of_one(npz: str, recipe: str) -> None:
    """The batch is divided over virtual CPU devices: as one device, up to the order of float32 sums."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CURVES), npz, recipe],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    one, eight = found["1"], found["8"]
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-4)
    assert eight["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4)
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert (one["reduces"], eight["reduces"]) == (False, True)  # the devices really share the work


@pytest.mark.slow
def test_two_hosts_are_interrupted_and_end_as_one(npz: str, tmp_path: Path) -> None:
    """Two processes on loopback with a device each; only host 0 has a folder."""
    args = [
        f"--dataset={npz}",
        "--filters=3",
        "--kernel_size=3",
        "--padding=same",
        "--epochs=60",
        "--seeds=2",
        "--batch_size=20",
    ]
    alone = launch(*args, f"--out={tmp_path}/one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        places = ["--hosts=2", f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--checkpoint_seconds=0"]
    out = tmp_path / "two"

    def both() -> list[subprocess.Popen]:
        return [launch(*args, *places, f"--host={k}", f"--out={out if k == 0 else tmp_path / 'none'}") for k in (0, 1)]

    done(alone)
    first, second = both()
    until(lambda: first.poll() is not None or list(out.glob("trials/*/checkpoint-*")))
    first.send_signal(signal.SIGTERM)
    done(first, 130)
    assert "host 0 has the results" in done(second)

    def kept() -> list[str]:
        return sorted(path.name for path in out.glob("trials/*/checkpoint-*"))

    before = kept()
    first, second = both()
    until(lambda: first.poll() is not None or kept() != before)
    second.kill()
    second.communicate()
    assert "rerun the same commands on all hosts to resume" in done(first, 1)
    assert kept()
    assert [record["status"] for record in store.read(out)] in ([], ["done"])
    for process in both():
        done(process)
    assert not (tmp_path / "none").exists()
    for a, b in zip(store.read(tmp_path / "one"), store.read(out), strict=True):
        assert b["device"].endswith("x2")
        np.testing.assert_allclose([r["train_loss"] for r in a["history"]], [r["train_loss"] for r in b["history"]], rtol=1e-3)
    assert store.lost_params(out) == set()


@pytest.mark.slow
def test_devices_by_the_command_line(npz: str, tmp_path: Path) -> None:
    args = [
        f"--dataset={npz}",
        "--filters=3",
        "--kernel_size=3",
        "--padding=same",
        "--epochs=2",
        "--seeds=1",
        "--batch_size=20",
    ]
    one, two = (launch(*args, f"--devices={n}", f"--out={tmp_path}/{n}") for n in (1, 2))
    done(one), done(two)
    (a,), (b,) = store.read(tmp_path / "1"), store.read(tmp_path / "2")
    assert b["device"].endswith("x2")
    np.testing.assert_allclose([r["val_loss"] for r in a["history"]], [r["val_loss"] for r in b["history"]], rtol=1e-4)
    assert "--devices" in done(launch(*args, "--devices=3", f"--out={tmp_path}/3"), 2)
