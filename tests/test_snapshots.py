"""Snapshots: parameters at chosen epochs, the same whatever interrupts the training or shares its program."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags as absl_flags
from test_fuzz_cli import launch

from cnn_jax import data
from cnn_jax.analysis.trained import open_trial
from cnn_jax.cli import experiments, flags, job
from cnn_jax.errors import UsageError
from cnn_jax.execution import driver, messages
from cnn_jax.execution.messages import Assignment, WorkerConfig
from cnn_jax.execution.trainer import Trainer
from cnn_jax.nn.init import initial_variables
from cnn_jax.records import store
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.position import Position, advance, finished, start
from cnn_jax.training.program import Program, compile_program
from cnn_jax.training.result import Result, results
from cnn_jax.training.step import variables_of
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

EPOCHS = (0, 1, 3)


@pytest.fixture(scope="module")
def trial(npz: str) -> Trial:
    return Trial(ModelConfig(filters=(3,)), DataConfig(npz, validation_fraction=0.2), TrainConfig(batch_size=50, epochs=3))


@pytest.fixture(scope="module")
def on_device(trial: Trial) -> DeviceData:
    return DeviceData.put(data.load(trial.data))


@pytest.fixture(scope="module")
def program(trial: Trial, on_device: DeviceData) -> Program:
    """Of three lanes."""
    return compile_program(trial, 3, on_device)


def seeds(trial: Trial, *values: int) -> list[Trial]:
    return [dataclasses.replace(trial, seed=seed) for seed in values]


def trained(
    program: Program, trials: list[Trial], on_device: DeviceData, begin: Position | None = None, steps: int = 10**9
) -> Position:
    position = begin or start(program, trials, on_device, EPOCHS)
    while not finished(trials, position):
        position = advance(program, trials, on_device, position, steps)
    return position


@pytest.fixture(scope="module")
def whole(trial: Trial, program: Program, on_device: DeviceData) -> list[Result]:
    """Two seeds, trained without interruption."""
    trials = seeds(trial, 0, 1)
    return results(program, trials, on_device, trained(program, trials, on_device))


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def at(snapshots: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
    return {name.partition("/")[2]: leaf for name, leaf in snapshots.items() if name.startswith(f"{epoch}/")}


def test_the_first_snapshot_is_the_initial_values_and_the_last_the_trained_ones(
    trial: Trial, program: Program, on_device: DeviceData, whole: list[Result]
) -> None:
    for seed, result in enumerate(whole):
        assert {name.partition("/")[0] for name in result.snapshots} == {"0", "1", "3"}
        initial = initial_variables(program.model, on_device.input_shape, seed)["params"]
        assert np.array_equal(at(result.snapshots, 0)["params/conv1/kernel"], initial["conv1"]["kernel"])
        assert equal(at(result.snapshots, 3), result.variables)
        assert not np.array_equal(result.snapshots["1/params/conv1/kernel"], result.snapshots["3/params/conv1/kernel"])
    position = start(program, seeds(trial, 0, 1), on_device, EPOCHS)
    while len(position.history) < 1:
        position = advance(program, seeds(trial, 0, 1), on_device, position, 3)
    kernel = variables_of(position.state)["params"]["conv1"]["kernel"]
    assert np.array_equal(kernel[1], whole[1].snapshots["1/params/conv1/kernel"])


@pytest.mark.parametrize("steps", [0, 3, 4, 5, 8])
def test_an_interruption_anywhere_loses_none_and_changes_no_bit(
    steps: int, trial: Trial, program: Program, on_device: DeviceData, whole: list[Result]
) -> None:
    trials = seeds(trial, 0, 1)
    position = start(program, trials, on_device, EPOCHS)
    while position.step < steps:
        position = advance(program, trials, on_device, position, 1)
    arrays = {name: np.array(array) for name, array in position.arrays().items()}
    resumed = start(program, trials, on_device, EPOCHS).restored(arrays)
    found = results(program, trials, on_device, trained(program, trials, on_device, resumed))
    assert all(equal(a.snapshots, b.snapshots) for a, b in zip(found, whole, strict=True))


def test_a_checkpoint_serves_only_who_wants_no_more_than_it_has(trial: Trial, program: Program, on_device: DeviceData) -> None:
    trials = seeds(trial, 0)
    position = start(program, trials, on_device, (1,))
    while len(position.history) < 2:
        position = advance(program, trials, on_device, position, 10**9)
    arrays = {name: np.array(array) for name, array in position.arrays().items()}
    with pytest.raises(ValueError, match="lacks the snapshot of epoch 0"):
        start(program, trials, on_device, (0, 1)).restored(arrays)
    assert list(start(program, trials, on_device, (1, 3)).restored(arrays).snapshots.kept) == [1]
    assert not start(program, trials, on_device).restored(arrays).snapshots.kept
    torn = {name: array[..., :1] if name == "snapshot/1/params/conv1/kernel" else array for name, array in arrays.items()}
    with pytest.raises(ValueError, match="snapshots of another shape"):
        start(program, trials, on_device, (1,)).restored(torn)


def test_without_the_flag_nothing_is_copied(trial: Trial, program: Program, on_device: DeviceData) -> None:
    position = trained(program, [trial], on_device, start(program, [trial], on_device))
    assert not position.snapshots.kept
    assert not any(name.startswith("snapshot") for name in position.arrays())


def test_lane_mates_change_nothing_and_a_diverged_one_keeps_what_came_before(
    trial: Trial, program: Program, on_device: DeviceData, whole: list[Result]
) -> None:
    wild = dataclasses.replace(trial, train=dataclasses.replace(trial.train, learning_rate=1e30), seed=9)
    trials = [wild, *seeds(trial, 1)]
    diverged, mate = results(program, trials, on_device, trained(program, trials, on_device))
    assert (diverged.status, diverged.history) == ("diverged", [])
    assert {name.partition("/")[0] for name in diverged.snapshots} == {"0"}
    assert equal(mate.snapshots, whole[1].snapshots)


def test_a_trial_that_stops_early_has_none_of_later_epochs(trial: Trial, program: Program, on_device: DeviceData) -> None:
    trials = seeds(trial, 0, 1)
    position = trained(program, trials, on_device)
    selection = dataclasses.replace(position.selection, stopped=(1, None))  # as --patience sets it
    stopped, other = results(program, trials, on_device, dataclasses.replace(position, selection=selection))
    assert {name.partition("/")[0] for name in stopped.snapshots} == {"0", "1"}
    assert {name.partition("/")[0] for name in other.snapshots} == {"0", "1", "3"}


# ------------------------------------------------------------------------------------------------------- workers and folders


def work(trials: list[Trial], out: Path, stops: int = 10**9) -> None:
    """A worker that trains in this process until it was told so many times that steps are done."""
    store.begin(out, "test", "now", trials)
    chunks: list[messages.Event] = []

    def send(event: messages.Event) -> None:
        assert not isinstance(event, messages.Broken), event
        chunks.extend([event] if isinstance(event, messages.Trained) else [])

    config = WorkerConfig(str(out), True, 1e9, {"command": "test", "versions": {}}, snapshots=EPOCHS)
    worker = Trainer(config, jax.devices()[:1], send, lambda: len(chunks) >= stops)
    worker.keep = lambda _, record, arrays: worker.writer.finish(record, *arrays)
    for one in trials:
        worker.run(Assignment(0, (one.canonical,), 1, data.load(one.data).checksum))


@pytest.fixture(scope="module")
def sweep(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("snapshots") / "out"
    work(seeds(trial, 0, 1), out)
    return out


def test_a_worker_that_is_stopped_and_resumed_writes_the_same_file(trial: Trial, sweep: Path, tmp_path: Path) -> None:
    work([trial], tmp_path, 1)  # within the second epoch
    assert store.read(tmp_path) == []
    assert list(tmp_path.glob("trials/*/checkpoint-*"))
    work([trial], tmp_path)
    file = Path("trials") / trial.id / "snapshots.npz"
    assert (tmp_path / file).read_bytes() == (sweep / file).read_bytes()
    assert not list(tmp_path.glob("trials/*/checkpoint-*"))


def test_open_trial_opens_an_epoch(sweep: Path) -> None:
    last, first = open_trial(sweep, "best"), open_trial(sweep, "best", epoch=0)
    images = last.dataset().test_images
    assert last.trial is not None
    assert first.record is not None
    assert (last.epoch, first.epoch, first.record.snapshots) == (None, 0, EPOCHS)
    assert np.array_equal(open_trial(sweep, "best", epoch=3).logits(images), last.logits(images))
    assert np.array_equal(first.logits(images), last.randomized(last.trial.seed).logits(images))
    with pytest.raises(UsageError, match=r"epoch=2: trial .* has no snapshot of this epoch: must be one of 0, 1, 3"):
        open_trial(sweep, "best", epoch=2)


def missing(trials: list[Trial], out: Path, snapshots: tuple[int, ...]) -> tuple[list[Trial], list[str]]:
    """Trials that a command would train in a folder, and what it says."""
    notes: list[str] = []
    checksums = {one.data: data.load(one.data).checksum for one in trials}
    return driver._missing(trials, out, checksums, driver.Options(snapshots=snapshots), notes), notes


def test_damaged_snapshots_are_refused_and_made_again(trial: Trial, sweep: Path, tmp_path: Path) -> None:
    out = shutil.copytree(sweep, tmp_path / "out")
    path = out / "trials" / trial.id / "snapshots.npz"
    good = path.read_bytes()
    place = good.index(b"\x93NUMPY") + 130  # in the values of the first array
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    with pytest.raises(UsageError, match="snapshots are gone or damaged"):
        open_trial(out, trial.id, epoch=1)
    assert open_trial(out, trial.id).epoch is None  # its parameters are whole
    assert missing(seeds(trial, 0, 1), out, ()) == ([], [])
    again, notes = missing(seeds(trial, 0, 1), out, EPOCHS)
    assert (again, notes) == ([trial], ["the snapshots of 1 trial are missing or damaged: trained again"])
    work(again, out)
    assert path.read_bytes() == good


def test_finished_trials_gain_no_snapshots_and_the_command_says_so(trial: Trial, sweep: Path) -> None:
    again, notes = missing(seeds(trial, 0, 1), sweep, (0, 2))
    assert again == []
    assert notes == [
        "--snapshots: 2 trials that are done did not keep all of these epochs: use another --out to train them again"
    ]
    assert missing(seeds(trial, 0, 1), sweep, (0, 3)) == ([], [])


def test_a_trial_without_snapshots_says_which_flag_keeps_them(trial: Trial, sweep: Path, tmp_path: Path) -> None:
    record = store.read(sweep)[0] | {"snapshots": [], "snapshots_sha256": None}
    store.begin(tmp_path, "test", "now", [trial])
    store.Writer(tmp_path).finish(record, store.load_params(sweep, record["trial"]))
    assert open_trial(tmp_path).epoch is None
    with pytest.raises(UsageError, match=r"kept no snapshots: train with --snapshots=1, in another folder"):
        open_trial(tmp_path, "best", epoch=1)


def test_the_flag_reaches_the_workers(tmp_path: Path) -> None:
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    values(["launch.py", "--snapshots=4,0,1..2", f"--out={tmp_path / 'out'}"])
    planned = job.prepare(experiments.find("grid"), values, is_named=False)
    config = planned.options.worker_config(tmp_path, {})
    assert tuple(json.loads(json.dumps(dataclasses.asdict(config)))["snapshots"]) == (0, 1, 2, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--snapshots=0,3"], "--snapshots=3: must be between 0 and 2, the epochs of the training"),
        (["--snapshots=-1"], "--snapshots: '-1' is not legal: use an integer of at least 0"),
        (["--snapshots=all"], "--snapshots: 'all' is not legal"),
        (["--snapshots=1", "--nokeep_params"], "--snapshots: not with --nokeep_params"),
    ],
)
def test_bad_epochs_are_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = launch(["--epochs=1,2", "--filters=4", "--seeds=1", *words])
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_more_than_a_file_can_hold_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = launch(["--model=vgg16", "--image_size=224", "--epochs=9", "--snapshots=0..9"])
    assert (status, err) == (2, "error: --snapshots: 10 epochs of 0.54 GB each: must be 3 at most, which is 2.1 GB\n")
