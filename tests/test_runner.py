"""The crew with workers that are played, then real runs in which the folder, the data or a trial goes wrong."""

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import synthetic
from launching import ROOT, Silent, begin, launch, results, until

from cnn_jax import execution
from cnn_jax.errors import UsageError
from cnn_jax.execution import driver, messages
from cnn_jax.execution.backends import local
from cnn_jax.execution.messages import Assignment, Event, WorkerConfig
from cnn_jax.execution.queue import Queue, Task
from cnn_jax.execution.scheduler import DEATHS, Scheduler, _Worker
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

TRIALS = [Trial(ModelConfig(filters=(f,)), train=TrainConfig(epochs=1), seed=s) for f in (8, 16) for s in range(3)]


# ----------------------------------------------------------------------------------------------------- workers played


class Played:
    """A backend whose workers do what a function says: task -> events; it keeps no processes."""

    def __init__(
        self, out: Path, act: Callable[[int, dict[str, Any]], list[Event]], size: int = 2, slots: int = 1, parallel: int = 0
    ):
        self.out, self.act, self.size, self.slots, self.parallel = out, act, size, slots, parallel or slots
        self.events: list[tuple[int, Any]] = []
        self.given: list[tuple[int, Any]] = []
        self.started: list[int] = []
        self.stopped_after = None

    def start(self, number: int) -> None:
        self.started.append(number)
        self.events.append((number, messages.Ready(slots=self.slots, parallel=self.parallel)))

    def send(self, number: int, message: Assignment) -> None:
        self.given.append((number, message))
        self.events += [(number, event) for event in self.act(number, message)]

    def poll(self, seconds: float) -> Iterator[tuple[int, Any]]:
        events, self.events = self.events, []
        return iter(events)

    def release(self, number: int) -> None:
        self.events.append((number, messages.Lost(how="exit status 0")))

    def shutdown(self, seconds: float) -> None:
        self.stopped_after = seconds

    def train(self, message: Assignment) -> list[Event]:
        writer = store.Writer(self.out)
        for text in message.trials:
            writer.finish(synthetic.minimal(Trial.from_json(text)))
        return [messages.Idle(slot=message.slot, task_seconds=9.0, compile_seconds=0.0)]


def scheduler(out: Path, act: Any, lanes: int = 1, trials: Sequence[Trial] = TRIALS, **how: Any) -> tuple[Scheduler, Played]:
    store.begin(out, "test", "now", trials)
    config = WorkerConfig(str(out), True, 120.0, {"command": "test", "versions": {}})
    backend = Played(out, lambda number, message: act(backend, number, message), **how)
    queue = Queue(trials, trials, lambda trial: 1.0, lanes)
    return Scheduler(backend, queue, config, {TRIALS[0].data: "sum"}, Silent()), backend  # type: ignore[arg-type]


def statuses(out: Path) -> dict[str, str]:
    return {record["trial"]: record["status"] for record in store.read(out)}


@pytest.mark.parametrize("slots", [1, 2])
def test_all_trials_are_done_once_and_data_are_named(tmp_path: Path, slots: int) -> None:
    master, backend = scheduler(tmp_path, lambda backend, _, message: backend.train(message), slots=slots)
    assert master.run() is False
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}
    given = [text for _, message in backend.given for text in message.trials]
    assert sorted(given) == sorted(trial.canonical for trial in TRIALS)
    assert {message.checksum for _, message in backend.given} == {"sum"}
    assert backend.stopped_after is not None


def test_c8_progress_hears_what_is_compiled_trained_and_lost(tmp_path: Path) -> None:
    told: list[Any] = []
    died = []

    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        slot = message.slot
        first = [messages.Compiling(slot=slot)]
        if not died:
            died.append(message.trials[0])
            return [
                *first,
                messages.Lost(how="killed by SIGKILL"),
                messages.Trained(slot=slot, images=1, seconds=1.0),
            ]
        images = messages.Trained(slot=slot, images=10, seconds=2.0)
        return [*first, messages.Compiled(slot=slot, seconds=3.0), images, *backend.train(message)]

    class Heard(Silent):
        def trained(self, trials: Any, images: int, seconds: float) -> None:
            told.append(("trained", trials[0].id, images, seconds))

        def compiled(self, trial: Trial, seconds: float) -> None:
            told.append(("compiled", trial.id, seconds))

        def restarted(self, trials: Any) -> None:
            told.append(("restarted", trials[0].id))

    master, _ = scheduler(tmp_path, act)
    master.progress = Heard()  # type: ignore[assignment]
    master.run()
    lost = Trial.from_json(died[0]).id
    assert told.pop(next(i for i, event in enumerate(told) if event[0] == "restarted")) == ("restarted", lost)
    assert sorted(told) == sorted(
        event for trial in TRIALS for event in (("trained", trial.id, 10, 2.0), ("compiled", trial.id, 3.0))
    )
    assert not any(worker.compiling for worker in master.workers.values())


def test_a_dead_workers_trial_is_done_by_another(tmp_path: Path) -> None:
    died = []

    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        if len(died) < DEATHS - 1:
            died.append(number)
            return [messages.Lost(how="killed by SIGKILL")]
        return backend.train(message)

    master, backend = scheduler(tmp_path, act)
    master.run()
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}
    assert backend.started.count(died[0]) == 2


def test_a_trial_that_kills_its_workers_fails_alone(tmp_path: Path) -> None:
    bad = TRIALS[1]

    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        if bad.canonical in message.trials:
            return [messages.Lost(how="killed by SIGSEGV")]
        return backend.train(message)

    master, _ = scheduler(tmp_path, act)
    master.run()
    assert statuses(tmp_path) == {trial.id: "failed" if trial == bad else "done" for trial in TRIALS}
    (record,) = (r for r in store.read(tmp_path) if r["status"] == "failed")
    assert f"died {DEATHS} times" in record["reason"]
    assert "SIGSEGV" in record["reason"]


def test_a_record_written_before_the_death_counts(tmp_path: Path) -> None:
    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        backend.train(message)
        return [messages.Lost(how="killed by SIGKILL")]

    master, backend = scheduler(tmp_path, act)
    master.run()
    assert len(backend.given) == len(TRIALS)
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}


def test_what_does_not_fit_is_halved(tmp_path: Path) -> None:
    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        return backend.train(message) if message.lanes == 1 else [messages.OutOfMemory(slot=message.slot)]

    master, backend = scheduler(tmp_path, act, lanes=3)
    master.run()
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}
    assert {(len(m.trials), m.lanes) for _, m in backend.given} == {(3, 3), (1, 1)}


def test_the_lanes_that_fit_are_remembered(tmp_path: Path) -> None:
    refused = []

    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        if message.lanes <= 2:
            return backend.train(message)
        refused.append(message.lanes)
        return [messages.OutOfMemory(slot=message.slot)]

    trials = [Trial(ModelConfig(filters=(8,)), train=TrainConfig(epochs=1), seed=s) for s in range(32)]
    master, _ = scheduler(tmp_path, act, lanes=8, size=1, trials=trials)
    master.run()
    assert statuses(tmp_path) == {trial.id: "done" for trial in trials}
    assert refused == [8, 4]


def test_tasks_go_to_the_devices_with_the_fewest(tmp_path: Path) -> None:
    """Of eight devices with two slots each, eight tasks take one each; sixteen fill them."""
    trials = [Trial(ModelConfig(filters=(f,)), train=TrainConfig(epochs=1)) for f in range(1, 17)]
    given: list[int] = []

    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        given.append(message.slot)
        if len(given) < 16:
            return []
        done = [event for _, sent in backend.given for event in backend.train(sent)]
        return [done[slot] for slot in (9, 1, 4, 0, *range(2, 4), *range(5, 9), *range(10, 16))]

    master, _ = scheduler(tmp_path, act, size=1, slots=16, parallel=8, trials=trials)
    master.run()
    assert given == [*range(8), *range(8, 16)]
    assert statuses(tmp_path) == {trial.id: "done" for trial in trials}


def test_a_free_slot_is_of_idle_devices_if_there_are_any() -> None:
    worker = _Worker(slots=6, parallel=3, tasks={0: Task(tuple(TRIALS[:1]), 1), 4: Task(tuple(TRIALS[1:2]), 1)})
    assert worker.free_slot(()) == 2
    assert worker.free_slot({2, 5}) == 1
    worker.tasks[2] = worker.tasks[0]
    assert worker.free_slot(()) == 1
    assert worker.free_slot(range(6)) is None


def test_workers_that_never_begin_are_no_endless_loop(tmp_path: Path) -> None:
    master, backend = scheduler(tmp_path, lambda *_: [])
    backend.start = lambda number: backend.events.append((number, messages.Lost(how="exit status 1")))  # type: ignore[method-assign]
    with pytest.raises(store.StoreError, match=r"die at start-up \(exit status 1\)"):
        master.run()
    assert backend.stopped_after is not None


def test_workers_that_begin_at_last_are_worth_waiting_for(tmp_path: Path) -> None:
    """On a cluster a job may be taken away at any time: here two in a row for every trial, in all more than DEATHS."""
    master, backend = scheduler(
        tmp_path, lambda backend, _, message: [*backend.train(message), messages.Lost(how="preempted")], size=1
    )
    hire, hired = backend.start, iter(range(99))
    early = messages.Lost(how="preempted")
    backend.start = lambda number: backend.events.append((number, early)) if next(hired) % 3 < 2 else hire(number)  # type: ignore[method-assign]
    master.run()
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}


def test_a_broken_folder_ends_the_run(tmp_path: Path) -> None:
    master, backend = scheduler(tmp_path, lambda *_: [messages.Broken(reason="--out: full")])
    with pytest.raises(store.StoreError, match="--out: full"):
        master.run()
    assert backend.stopped_after is not None


def test_a_signal_stops_and_is_told(tmp_path: Path) -> None:
    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    before = signal.getsignal(signal.SIGTERM)
    master, backend = scheduler(tmp_path, act)
    assert master.run() is True
    assert backend.stopped_after is not None
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_that_is_told_to_go_hands_back_its_task_and_that_is_no_death(tmp_path: Path) -> None:
    """As Slurm ends jobs whose time is up: the trial may need many of them."""
    times = 0

    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        nonlocal times
        times += 1
        if times > 2 * DEATHS:
            return backend.train(message)
        return [messages.Checkpointed(slot=message.slot), messages.Lost(how="told to stop")]

    master, backend = scheduler(tmp_path, act)
    master.run()
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}
    assert len(backend.given) == len(TRIALS) + 2 * DEATHS


def test_who_is_leaving_is_given_nothing_more(tmp_path: Path) -> None:
    """A worker with nothing to do is dismissed; then, before it is gone, another one dies and its trial is free again."""
    master, backend = scheduler(tmp_path, lambda backend, _, message: backend.train(message))
    died, leaving = [], set()

    def act(backend: Played, number: int, message: Assignment) -> list[Event]:
        assert number not in leaving
        if message.trials[0] == backend.last and not died:
            died.append(number)
            return [messages.Lost(how="killed by SIGKILL")]
        return backend.train(message)

    def dismiss(number: int) -> None:
        leaving.add(number)
        late.append((number, messages.Lost(how="exit status 0")))

    def wait(seconds: float) -> list[tuple[int, Any]]:
        if backend.events:
            event, *backend.events = backend.events
            return [event]
        leaving.clear()
        events, late[:] = list(late), []
        return events

    late: list[tuple[int, Any]] = []
    backend.last = list(master.queue._pending.values())[-1][-1].trials[0].canonical  # type: ignore[attr-defined]
    backend.act = lambda number, message: act(backend, number, message)
    backend.release, backend.poll = dismiss, wait  # type: ignore[method-assign,assignment]
    master.run()
    assert died
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}


def test_the_end_waits_for_nobody_who_never_began(tmp_path: Path) -> None:
    """A job may stand in a cluster's queue for days."""
    master, backend = scheduler(tmp_path, lambda backend, _, message: backend.train(message))
    hire = backend.start
    backend.start = lambda number: None if number == 1 else hire(number)  # type: ignore[method-assign]
    master.run()
    assert statuses(tmp_path) == {trial.id: "done" for trial in TRIALS}


# ---------------------------------------------------------------------------------------------------------- real runs

ONE = ["--filters=40", "--kernel_size=3", "--padding=same", "--epochs=2", "--workers=1"]


def one_line(done: Any, status: int) -> str:
    err = done.stderr if isinstance(done.stderr, str) else done.communicate()[1]
    assert done.returncode == status, err
    assert err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def calm(npz: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("calm") / "out"
    done = launch(f"--dataset={npz}", *ONE, f"--out={out}")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def args(npz: str, tmp_path: Path) -> list[str]:
    return [f"--dataset={npz}", *ONE, f"--out={tmp_path / 'out'}"]


def test_records_say_how_they_were_made(calm: Path) -> None:
    for record in store.read(calm):
        assert record["schema"] == store.SCHEMA
        assert {"cnn_jax", "jax", "jaxlib", "flax", "optax", "numpy", "python"} - {"cnn_jax"} <= record["versions"].keys()
        assert record["code"].keys() == {"commit", "dirty"}
        assert record["device"].startswith("cpu: ")
        assert record["precision"] == "float32"
        assert len(record["data"]["checksum"]) == 64
        assert record["config"]["seed"] == int(record["trial"].split("seed")[1].split("-")[0])
        assert "launch.py" in record["command"]


def test_a_full_disk_is_one_line_and_later_all_is_well(args: list[str], calm: Path, tmp_path: Path) -> None:
    """No file may grow beyond 9,000 bytes: the parameters do not fit, the records would."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))

    done = launch(*args, preexec_fn=limit)
    assert "--out: " in one_line(done, 1)
    assert "cannot be written" in done.stderr
    assert store.read(tmp_path / "out") == []
    assert launch(*args).returncode == 0
    assert results(tmp_path / "out") == results(calm)


@pytest.mark.parametrize("harm", ["remove", pytest.param("trials", marks=pytest.mark.slow), "logs"])
@pytest.mark.slow
def test_a_folder_that_changes_under_the_run_is_one_line(harm: str, args: list[str], calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if harm == "logs":  # it cannot even begin
        out.mkdir()
        (out / "logs").write_text("")
    process = begin(*args, "--checkpoint_seconds=0")
    if harm != "logs":
        until(lambda: list(out.glob("trials/*/*")))
        shutil.move(out if harm == "remove" else out / "trials", tmp_path / "away")
        if harm == "trials":
            (out / "trials").write_text("")
    assert str(out) in one_line(process, 1)
    for left in ("trials", "logs"):
        if (out / left).is_file():
            (out / left).unlink()
    assert launch(*args).returncode == 0
    assert results(out) == results(calm)


def test_damaged_records_and_parameters_are_made_again(args: list[str], calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(calm, out)
    for number, path in enumerate(sorted(out.glob("records/*"))):
        path.write_bytes(path.read_bytes()[:-20] + b"\x00\xff" * 9 + (b"" if number else b"\n\n"))
    a, b, _ = sorted(out.glob("trials/*/params.npz"))
    a.write_bytes(a.read_bytes()[:1000])
    b.write_bytes(np.random.default_rng(0).bytes(5000))
    done = launch(*args)
    assert done.returncode == 0, done.stderr
    assert "damaged line" in done.stdout
    assert results(out) == results(calm)
    assert store.lost_params(out) == set()
    assert "note:" not in launch(*args).stdout


def test_finished_trials_are_not_missing_and_other_data_are_refused(tmp_path: Path) -> None:
    store.begin(tmp_path, "test", "now", TRIALS)
    for trial, status in zip(TRIALS, ("done", "diverged", "failed"), strict=False):
        store.Writer(tmp_path).finish(synthetic.minimal(trial, status=status))
    options = driver.Options(keep_params=True)
    assert driver._missing(TRIALS, tmp_path, {TRIALS[0].data: "sum"}, options, []) == TRIALS[2:]
    with pytest.raises(UsageError, match="digits has changed"):
        driver._missing(TRIALS, tmp_path, {TRIALS[0].data: "other"}, options, [])


SLOW = """
import os, sys, time
import flax.linen as nn, numpy as np


class Slow(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        if train:
            open("begun", "w").close()
            time.sleep(3600)
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1)), {}


class Once(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        # In a worker alone: the model is also called when the sweep is planned.
        if train and "cnn_jax.execution.worker" in sys.modules and not os.path.exists("tried"):
            open("tried", "w").close()
            raise RuntimeError("not yet")
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1)), {}


def data():
    open("begun", "w").close()
    time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("where", "number"), [("data", signal.SIGINT), ("data", signal.SIGTERM), ("compiling", signal.SIGTERM)]
)
def test_interrupted_whatever_it_does(where: str, number: int, npz: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "slow.py").write_text(SLOW)
    flags = ["--dataset=mine.slow:data"] if where == "data" else [f"--dataset={npz}", "--model=mine.slow:Slow"]
    process = begin(*flags, "--seeds=1", "--epochs=1", "--out=o", cwd=tmp_path)
    until(lambda: (tmp_path / "begun").exists())
    process.send_signal(number)
    _, err = process.communicate(timeout=60)  # of an hour
    assert process.returncode == 130, err
    assert "rerun the same command to resume" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_failed_trial_is_tried_again_by_the_next_command(npz: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "slow.py").write_text(SLOW)
    args = [f"--dataset={npz}", "--model=mine.slow:Once", "--seeds=1", "--epochs=1", "--out=o"]
    first = launch(*args, cwd=tmp_path)
    assert first.returncode == 1
    assert re.search("failed: .*RuntimeError: not yet", first.stderr)
    assert launch(*args, cwd=tmp_path).returncode == 0
    assert [record["status"] for record in store.read(tmp_path / "o")] == ["done"]


@pytest.mark.slow
def test_an_object_store_is_a_folder_too(npz: str, tmp_path: Path) -> None:
    """gs:// in every process of the run, kept by tests/objects.py; interrupted and gone on with."""
    (tmp_path / "sitecustomize.py").write_text("import objects")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests")])
    environment = os.environ | {"OBJECTS": str(tmp_path / "bucket"), "PYTHONPATH": path}
    args = [
        f"--dataset={npz}",
        "--filters=3",
        "--kernel_size=3",
        "--padding=same",
        "--epochs=60",
        "--batch_size=8",
        "--seeds=2",
    ]
    calm = launch(*args, f"--out={tmp_path}/calm")
    assert calm.returncode == 0, calm.stderr
    args += ["--out=gs://b/sweep", "--checkpoint_seconds=0"]
    process, objects = begin(*args, env=environment), tmp_path / "bucket" / "b" / "sweep"
    until(lambda: list(objects.glob("trials/*/checkpoint-*")))
    process.kill()
    process.communicate()
    done = launch(*args, env=environment)
    assert done.returncode == 0, done.stderr
    assert "gs://b/sweep/report.html" in done.stdout
    assert results(objects) == results(tmp_path / "calm")
    assert len(list(objects.glob("records/*"))) == 2
    names = {path.name for path in objects.iterdir()}
    assert names >= {"plan", "records", "trials", "sweep.json", "results.csv", "report.html"}
    assert names.isdisjoint({"lock", "logs"})
    again = launch("report", "gs://b/sweep", env=environment)
    assert again.returncode == 0, again.stderr
    assert "gs://b/sweep/report.html" in again.stdout
    assert not list(ROOT.glob("gs:*"))


# ------------------------------------------------------------------------------------------------------------ by reading


def test_nothing_is_unpickled_or_evaluated() -> None:
    for path in [*(ROOT / "cnn_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        text = path.read_text()
        for word in (
            "import pickle",
            "import dill",
            "cloudpickle",
            "joblib.load",
            "allow_pickle=True",
            " eval(",
            " exec(",
            "shell=True",
        ):
            # An exported module is run to compare its logits: its text is the package's, and names stand in it as literals.
            own = word == " exec(" and path == ROOT / "cnn_jax/export/torch.py"
            assert word not in text or own, (path, word)
        assert text.count("np.load(") == text.count("allow_pickle=False") or path.name == "cache.py", path


def test_a_checkpoint_of_other_data_is_not_resumed(npz: str, tmp_path: Path) -> None:
    """In this process: a worker's trainer takes up what was made with the same data and versions only."""
    from cnn_jax import data
    from cnn_jax.execution.trainer import Trainer

    trial = Trial(ModelConfig(filters=(2,)), DataConfig(npz), TrainConfig(epochs=2, batch_size=20))
    store.begin(tmp_path, "test", "now", [trial])
    checksum = data.load(trial.data).checksum
    task = Assignment(0, (trial.canonical,), 1, checksum)

    def trainer(versions: dict[str, str], stops: int, task: Assignment = task) -> tuple[list[int], list[Any]]:
        """Walks until it looked up `stops` times; returns the images that it trained on, and the records."""
        import jax

        images: list[int] = []
        kept: list[Any] = []

        def send(event: Event) -> None:
            assert not isinstance(event, messages.Broken), event
            sent.append(type(event))
            if not isinstance(event, messages.Compiling | messages.Compiled):
                images.append(getattr(event, "images", 0))

        config = WorkerConfig(str(tmp_path), False, 1e9, {"versions": versions})
        stood = Trainer(
            config,
            jax.devices()[:1],
            send,
            lambda: len(images) >= stops,
            lambda _, record, __: kept.append(record),
        )
        stood.run(task)
        return images, kept

    sent: list[type] = []
    whole, (record,) = trainer({"jax": "1"}, 99)
    assert trainer({"jax": "1"}, 0) == ([], [])  # it did nothing, and nothing is what another would get
    first, none = trainer({"jax": "1"}, 1)
    assert sent.count(messages.Checkpointed) == 1
    assert sum(first) < sum(whole)
    assert none == []
    other, (anew,) = trainer({"jax": "2"}, 99)
    assert sum(other) == sum(whole)
    rest, (resumed,) = trainer({"jax": "1"}, 99)
    assert sum(first) + sum(rest) == sum(whole)
    for name in ("history", "test_loss", "test_correct"):
        assert record[name] == anew[name] == resumed[name]
    _, (refused,) = trainer({"jax": "1"}, 99, dataclasses.replace(task, checksum="another"))
    assert refused["status"] == "failed"
    assert "has other data" in refused["reason"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")])
def test_what_does_not_fit_is_told_until_it_is_one_trial(
    error: Exception, npz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real trainer, on which nothing of more than one lane fits."""
    from cnn_jax import data
    from cnn_jax.execution.trainer import Trainer

    def compile_program(trial: Trial, lanes: int, *_: Any) -> Any:
        raise error

    trials = [Trial(ModelConfig(filters=(2,)), DataConfig(npz), TrainConfig(epochs=1), seed) for seed in range(4)]
    store.begin(tmp_path, "test", "now", trials)
    monkeypatch.setattr("cnn_jax.execution.trainer.compile_program", compile_program)
    import jax

    sent: list[type] = []
    kept: list[Any] = []
    config = WorkerConfig(str(tmp_path), False, 1e9, {"versions": {}})
    trainer = Trainer(
        config,
        jax.devices()[:1],
        lambda event: sent.append(type(event)) if not isinstance(event, messages.Compiling) else None,
        keep=lambda _, record, __: kept.append(record),
    )
    task = Assignment(0, tuple(t.canonical for t in trials), 4, data.load(trials[0].data).checksum)
    trainer.run(task)
    assert (sent, kept) == ([messages.OutOfMemory], [])
    trainer.run(dataclasses.replace(task, trials=task.trials[:1], lanes=1))
    assert sent == [messages.OutOfMemory, messages.Idle]
    assert [record["status"] for record in kept] == ["failed"]


def test_outcome_is_complete_when_every_trial_has_a_record() -> None:
    whole = execution.Outcome({"done": 2, "failed": 1}, 3, [], False)
    assert whole.complete
    assert not dataclasses.replace(whole, total=4).complete
    assert not dataclasses.replace(whole, interrupted=True).complete
    assert json.dumps(whole.counts)


@pytest.mark.parametrize(("mine", "theirs"), [("", []), ("glibc.malloc.hugetlb=0", ["glibc.malloc.hugetlb=0"])])
def test_workers_ask_for_large_pages_unless_the_user_says_otherwise(
    mine: str, theirs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", mine)
    assert local.environment(1)["GLIBC_TUNABLES"].split(":") == ["glibc.malloc.hugetlb=1", *theirs]  # the last one counts


@pytest.mark.parametrize(
    ("mine", "told"), [("", True), ("--xla_gpu_deterministic_ops=false", False), ("--xla_gpu_deterministic_ops", True)]
)
def test_a_gpu_is_asked_for_the_same_sums_unless_the_user_says_otherwise(
    mine: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says which."""
    from cnn_jax.execution.trainer import Trainer

    monkeypatch.setenv("XLA_FLAGS", mine)
    monkeypatch.setenv("XLA_FLAGS", local.environment(1)["XLA_FLAGS"])
    config = WorkerConfig("out", False, 1e9, {"command": "test", "versions": {}})
    gpu = SimpleNamespace(platform="gpu", device_kind="H100")
    found = Trainer(config, [gpu])._precision(TRIALS[0])  # type: ignore[list-item]
    assert found == "float32, products default" + ("" if told else ", not deterministic")
