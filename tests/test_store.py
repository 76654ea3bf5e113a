"""Records survive kills and damage; nothing else than what was written is ever read."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import store
from cnn_jax.config import Trial, UsageError


def record(trial: str, status: str = "done", **more: object) -> dict:
    return {"trial": trial, "status": status, **more}


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    store.begin(tmp_path, "python launch.py", "2026-01-01T00:00:00+00:00", [Trial(seed=0), Trial(seed=1)])
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    writer = store.Writer(folder)
    writer.finish(record("b", test_accuracy=0.25, reason='a "quoted" word\nand a line'))
    writer.finish(record("a", loss=float("nan"), history=[{"x": float("inf")}]))
    a, b = store.read(folder)
    assert a == {"trial": "a", "status": "done", "loss": None, "history": [{"x": None}]}
    assert b["test_accuracy"] == 0.25
    assert b["reason"] == 'a "quoted" word\nand a line'
    assert store.plan(folder) == [Trial(seed=0), Trial(seed=1)]
    assert [c["command"] for c in store.commands(folder)] == ["python launch.py"]


def test_every_line_is_json_for_other_programs(folder: Path) -> None:
    store.Writer(folder).finish(record("a", x=[1, None]))
    (path,) = (folder / "records").glob("*.jsonl")
    assert json.loads(path.read_text())["x"] == [1, None]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_torn_last_line_is_left_out_and_the_rest_kept(folder: Path, cut: int) -> None:
    writer = store.Writer(folder)
    writer.finish(record("a", x=1))
    writer.finish(record("b", x=2))
    (path,) = (folder / "records").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    kept = ["a", "b"] if cut == 1 else ["a"]  # without its newline the last line is still whole
    assert [r["trial"] for r in store.read(folder)] == kept
    assert len(store.damaged(folder)) == 2 - len(kept)


def test_no_flipped_byte_gives_another_number(folder: Path) -> None:
    store.Writer(folder).finish(record("a", test_accuracy=0.9876))
    (path,) = (folder / "records").glob("*.jsonl")
    whole = path.read_bytes()
    for i in range(len(whole) - 1):
        for flip in (1, 0x10):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :])
            assert store.read(folder) == []


def test_noise_is_no_record(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "records" / "noise.jsonl").write_bytes(rng.bytes(5000))
    store.Writer(folder).finish(record("a"))
    assert [r["trial"] for r in store.read(folder)] == ["a"]


def test_a_finished_record_beats_a_failed_one_of_any_writer(folder: Path) -> None:
    for status in ("failed", "done", "failed"):
        store.Writer(folder).finish(record("a", status))
    assert [r["status"] for r in store.read(folder)] == ["done"]


def test_killed_writer_leaves_whole_records(folder: Path) -> None:
    code = """
        import sys
        from cnn_jax import store
        writer = store.Writer(sys.argv[1])
        i = 0
        while True:
            writer.finish({"trial": f"t{i:06d}", "status": "done", "filler": "x" * 2000})
            print(i, flush=True)
            i += 1
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    said += rest.splitlines()
    assert len(store.read(folder)) >= len(said)


def test_parameters_round_trip_without_pickle(folder: Path) -> None:
    params = {"params/conv1/kernel": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "params/conv1/bias": np.zeros(3)}
    store.Writer(folder).finish(record("a"), params)
    loaded = store.load_params(folder, "a")
    assert loaded.keys() == params.keys()
    np.testing.assert_array_equal(loaded["params/conv1/kernel"], params["params/conv1/kernel"])
    evil = folder / "trials" / "a" / "params.npz"
    np.savez(evil, x=np.array([{}]))  # an object array: loading it would unpickle
    with pytest.raises(ValueError, match="pickle"):
        store.load_params(folder, "a")


def test_checkpoints_newest_whole_one_counts(folder: Path) -> None:
    writer = store.Writer(folder)
    assert store.latest_checkpoint(folder, "a") is None
    for step in (5, 10, 15):
        writer.checkpoint("a", step, {"step": np.array(step)})
    files = sorted((folder / "trials" / "a").glob("checkpoint-*"))
    assert len(files) == 2
    assert store.latest_checkpoint(folder, "a") == {"step": 15}
    files[1].write_bytes(files[1].read_bytes()[:-7])
    assert store.latest_checkpoint(folder, "a") == {"step": 10}
    files[0].write_bytes(b"noise")
    assert store.latest_checkpoint(folder, "a") is None
    writer.finish(record("a"))
    assert not (folder / "trials" / "a").exists()


def test_folder_of_another_version_is_refused(folder: Path) -> None:
    header = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(header | {"schema": 99}))
    for action in (store.check, store.read):
        with pytest.raises(UsageError, match="schema 99"):
            action(folder)
    (folder / "sweep.json").write_text("{")
    with pytest.raises(UsageError, match=r"sweep\.json"):
        store.check(folder)


def test_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        store.check(tmp_path / "file" / "below")
    store.check(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="no sweep"):
        store.read(tmp_path)


def test_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    with store.locked(tmp_path / "x"):
        other = subprocess.run(
            [sys.executable, "-c", "import sys; from pathlib import Path; from cnn_jax import store\nwith store.locked(Path(sys.argv[1])): pass", str(tmp_path / "x")],
            capture_output=True,
            text=True,
        )
        assert f"in use by process {os.getpid()}" in other.stderr
    with store.locked(tmp_path / "x"):
        pass


def test_full_disk_is_said_in_one_line(folder: Path) -> None:
    writer = store.Writer(folder)
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    writer._path = Path("/dev/full")
    with pytest.raises(store.StoreError, match="No space left"):
        writer.finish(record("a"))
