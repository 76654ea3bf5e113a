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
from etils import epath
from launching import ROOT, Silent, begin, results, until

from cnn_jax.errors import UsageError
from cnn_jax.execution import driver, messages
from cnn_jax.execution.backends import local, mailbox, trial_hosts
from cnn_jax.execution.messages import Event, WorkerConfig
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial


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
    from cnn_jax.training.device_data import DeviceData
    from cnn_jax.training.program import compile_program
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


LANES = """
    import sys
    import jax
    import numpy as np
    from cnn_jax import data
    from cnn_jax.training.device_data import DeviceData
    from cnn_jax.training.position import advance, finished, start
    from cnn_jax.training.program import compile_program
    from cnn_jax.training.result import results
    from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

    model = ModelConfig(filters=(4,), kernel_size=(3,), padding="same", strides=(1,))
    train = TrainConfig(epochs=2, batch_size=40, augment="shift:1")
    trials = [Trial(model, DataConfig(sys.argv[1]), train, seed=s) for s in range(16)]
    found = {}
    for count, lanes in ((1, 2), (8, 16)):
        dataset = DeviceData.put(data.load(trials[0].data), jax.devices()[:count], "lanes")
        program = compile_program(trials[0], lanes, dataset)
        found[count] = []
        for first in range(0, 16, lanes):
            mine = trials[first : first + lanes]
            position = start(program, mine, dataset)
            while not finished(mine, position):
                position = advance(program, mine, dataset, position, 3)
            found[count] += results(program, mine, dataset, position)
        assert len(position.state.params["conv1"]["kernel"].sharding.device_set) == count
    text = program.train.as_text()
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute") if word in text]
    for one, eight in zip(found[1], found[8], strict=True):
        assert (one.history, one.test_loss) == (eight.history, eight.test_loss)
        assert all(np.array_equal(value, eight.variables[name]) for name, value in one.variables.items())
"""


def test_lanes_on_eight_devices_are_those_of_one_to_the_bit(npz: str) -> None:
    """Sixteen seeds in one program of virtual CPU devices that tell each other nothing."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LANES), npz], env=environment, capture_output=True, text=True, timeout=300
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(("filters", "seeds", "lanes"), [("2", 16, 16), ("1,2,3,4,5,6,7,8", 2, 2)])
def test_a_worker_with_eight_devices_uses_all(
    filters: str, seeds: int, lanes: int, npz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records are those of workers with one device, to the bit."""
    trials = [
        Trial(
            ModelConfig(filters=(int(f),), kernel_size=(3,), padding="same", strides=(1,)),
            DataConfig(npz),
            TrainConfig(epochs=1, batch_size=40),
            seed,
        )
        for f in filters.split(",")
        for seed in range(seeds)
    ]
    driver.run(
        trials, tmp_path / "one", "test", driver.Options(), cost=lambda _: 1.0, lane_bytes=lambda _: 0, progress=Silent()
    )
    monkeypatch.setattr(local, "accelerator", lambda: True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    driver.run(
        trials, tmp_path / "eight", "test", driver.Options(), cost=lambda _: 1.0, lane_bytes=lambda _: 0, progress=Silent()
    )
    assert {record["lanes"] for record in store.read(tmp_path / "eight")} == {lanes}
    assert results(tmp_path / "eight") == results(tmp_path / "one")


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


# ---------------------------------------------------------------------------------------------- hosts that share trials


def shared(npz: str, out: Path, *more: str) -> list[str]:
    cells = ["--filters=1,2,3,4", "--kernel_size=3", "--padding=same", "--seeds=2", "--batch_size=20", "--workers=1"]
    return [f"--dataset={npz}", *cells, f"--out={out}", *more]


@pytest.mark.slow
def test_two_hosts_share_the_trials_of_a_folder(npz: str, tmp_path: Path) -> None:
    """The second one waits for host 0, takes a part, and ends with it; the records are those of one host, to the bit."""
    out = tmp_path / "out"
    out.mkdir()  # as a user may do before
    args = shared(npz, out, "--epochs=20", "--hosts=2")
    second = launch(*args, "--host=1")
    first = launch(*args, "--host=0")
    done(first)
    told = done(second)
    assert "host 1 waits for host 0" in told
    assert "host 0 has the results" in told
    assert sorted(path.name for path in (out / "logs").glob("worker-*.log")) == ["worker-0.log", "worker-1.log"]
    done(launch(*shared(npz, tmp_path / "one", "--epochs=20")))
    assert results(out) == results(tmp_path / "one")
    assert "host 0 has the results" in done(launch(*args, "--host=1"))  # all is done: it waits for nobody


def test_a_host_that_leaves_or_falls_silent_loses_no_trial(npz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "SILENCE", 1.5)
    monkeypatch.setattr(mailbox, "HEARTBEAT", 0.3)
    config = WorkerConfig(str(tmp_path), False, 120.0, {"command": "test", "versions": {}})
    backend = trial_hosts.TrialHosts(config, 1, hosts=3)
    try:
        mine = backend.here.size
        (first,), (second,) = (list((tmp_path / "hosts" / host).iterdir()) for host in "12")
        one, two = (mailbox.Outbox(folder / "events.jsonl") for folder in (first, second))
        one.send({"size": 4})
        two.send({"size": 3})
        assert backend.poll(0) == []
        assert backend.size == mine + 7
        for number in range(3):
            backend.start(number)
        assert backend.at == {0: 1, 1: 1, 2: 2}  # where most are free
        sent = mailbox.Inbox(first / "tasks.jsonl").receive()
        assert [message.get("start") for message in sent] == [None, 0, 1]
        one.send({"number": 1, "event": messages.Ready(1, 1).to_json()})
        one.send({"left": True})
        assert backend.poll(0) == [
            (1, messages.Ready(1, 1)), (0, messages.Lost("host 1 has left")), (1, messages.Lost("host 1 has left"))
        ]  # fmt: skip
        assert backend.size == mine + 3
        assert not (first / "tasks.jsonl").exists()
        assert len(list((tmp_path / "hosts" / "1").iterdir())) == 2  # it may come back
        found: list[tuple[int, Event]] = []
        until(lambda: found.extend(backend.poll(0.1)) or bool(found))
        assert found == [(2, messages.Lost("host 2 is silent and presumed dead"))]
        assert (backend.size, backend.at) == (mine, {})
    finally:
        backend.shutdown(1.0)


def test_hosts_of_trials_need_a_folder_that_they_share() -> None:
    with pytest.raises(
        UsageError, match="--hosts: --out=gs://bucket/folder must be a folder in a file system that all hosts share"
    ):
        driver.check(epath.Path("gs://bucket/folder"), driver.Options(hosts=2))
    driver.check(epath.Path("gs://bucket/folder"), driver.Options(hosts=2, coordinator="127.0.0.1:9911"))


# ------------------------------------------------------------------------------------------------------- the command line


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
