"""Records survive kills and damage; nothing else than what was written is ever read."""

import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import objects
import pytest
import synthetic

from cnn_jax.errors import UsageError
from cnn_jax.records import lines, store
from cnn_jax.trial import Trial


def record(trial: str, status: str = "done", **more: object) -> dict:
    return synthetic.minimal(Trial(), trial, status) | more


def newest(folder: Path, trial: str) -> dict | None:
    return next(store.checkpoints(folder, trial), None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.begin(tmp_path, "python launch.py", "2026-01-01T00:00:00+00:00", [Trial(seed=0), Trial(seed=1)])
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    writer = store.Writer(folder)
    writer.finish(record("b", test_accuracy=0.25, reason='a "quoted" word\nand a line'))
    writer.finish(record("a", test_loss=float("nan"), history=[{"epoch": 1, "x": float("inf")}]))
    a, b = store.read(folder)
    wanted = record("a", test_loss=None, history=[{"epoch": 1, "x": None}], params_sha256=None)
    assert {name: a[name] for name in wanted} == wanted
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
        import json, sys
        from cnn_jax.records import store
        writer, row = store.Writer(sys.argv[1]), json.loads(sys.argv[2])
        i = 0
        while True:
            writer.finish(row | {"trial": f"t{i:06d}", "filler": "x" * 2000})
            print(i, flush=True)
            i += 1
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(folder), json.dumps(record("a"))]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
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
    assert newest(folder, "a") is None
    for step in (5, 10, 15):
        writer.checkpoint("a", step, {"step": np.array(step)})
    files = sorted((folder / "trials" / "a").glob("checkpoint-*"))
    assert len(files) == 2
    os.utime(files[1], (0, 0))  # clocks jump: the step counts
    assert newest(folder, "a") == {"step": 15}
    files[1].write_bytes(files[1].read_bytes()[:-7])
    assert newest(folder, "a") == {"step": 10}
    files[0].write_bytes(b"noise")
    assert newest(folder, "a") is None
    writer.finish(record("a"))
    assert not (folder / "trials" / "a").exists()


def test_a_failed_trial_keeps_its_checkpoints_for_the_next_try(folder: Path) -> None:
    writer = store.Writer(folder)
    writer.checkpoint("a", 5, {"step": np.array(5)})
    writer.finish(record("a", "failed"))
    assert newest(folder, "a") == {"step": 5}
    writer.finish(record("a"))
    assert not (folder / "trials" / "a").exists()


def test_a_checkpoint_of_another_life_does_not_outlive_a_new_one(folder: Path) -> None:
    writer = store.Writer(folder)
    for step in (800, 900, 10, 20):  # begun anew at step 0 after 900
        writer.checkpoint("a", step, {"step": np.array(step)})
    assert [int(c["step"]) for c in store.checkpoints(folder, "a")] == [20, 10]


def test_folder_of_another_version_is_refused(folder: Path) -> None:
    store.Writer(folder).finish(record("a"))
    header = folder / "sweep.json"
    written = header.read_bytes()
    header.write_bytes(lines.encode({"schema": 99, "commands": []}))
    for action in (store.check, store.commands):
        with pytest.raises(UsageError, match="schema 99"):
            action(folder)
    header.write_bytes(written)
    store.Writer(folder).finish(record("b") | {"schema": 98})
    with pytest.raises(UsageError, match="schema 98"):
        store.read(folder)


def test_another_programs_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"method": "grid"}')
    with pytest.raises(UsageError, match="not this program's"):
        store.check(tmp_path)


@pytest.mark.parametrize("noise", [b"", b"{", bytes(range(256)) * 9])
def test_what_is_damaged_is_mended_and_said_once(folder: Path, noise: bytes) -> None:
    """The header, the plan and a line of the records, each cut short or filled with noise."""
    store.Writer(folder).finish(record("a"), {"x": np.ones(3)})
    store.Writer(folder).finish(record("b"))
    hurt, *_ = (folder / "records").glob("*.jsonl")
    hurt.write_bytes(hurt.read_bytes()[:-9] + b"\n" + noise.replace(b"\n", b""))
    (folder / "sweep.json").write_bytes(noise)
    (plan,) = (folder / "plan").glob("*")
    plan.write_bytes(noise)
    (folder / "plan" / ".left.tmp").write_bytes(noise)
    store.check(folder)
    assert store.plan(folder) == []
    assert len(store.read(folder)) == 1
    notes = store.begin(folder, "again", "2026-01-01T00:00:00+00:00", [Trial(seed=0), Trial(seed=1)])
    assert len(notes) == 2
    assert "sweep.json" in notes[0]
    assert hurt.name in notes[1]
    assert store.plan(folder) == [Trial(seed=0), Trial(seed=1)]
    assert [c["command"] for c in store.commands(folder)] == ["again"]
    assert [path.name for path in (folder / "plan").iterdir()] == [plan.name]
    assert store.begin(folder, "once more", "2026-01-01T00:00:00+00:00", [Trial(seed=0)]) == []


def test_a_plan_that_is_not_what_its_name_says_is_no_plan(folder: Path) -> None:
    (plan,) = (folder / "plan").glob("*")
    plan.write_bytes(gzip.compress(Trial(seed=7).canonical.encode()))
    assert store.plan(folder) == []


def test_an_unreadable_record_file_is_damage(folder: Path) -> None:
    (folder / "records" / "x.jsonl").mkdir()
    store.Writer(folder).finish(record("a"))
    assert len(store.read(folder)) == 1
    assert store.damaged(folder) == ["x.jsonl"]


def test_records_that_cannot_be_listed_are_not_taken_for_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where root would be let in: as for anybody else."""

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    store.Writer(folder).finish(record("a"))
    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match="records cannot be read: Permission denied"):
        store.read(folder)


@pytest.mark.parametrize(
    "harm", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.write_bytes(b"")]
)
def test_lost_parameters_are_found(folder: Path, harm) -> None:  # type: ignore[no-untyped-def]
    writer = store.Writer(folder)
    writer.finish(record("a"), {"x": np.ones(3)})
    writer.finish(record("b"))  # kept none
    assert store.lost_params(folder) == set()
    harm(folder / "trials" / "a" / "params.npz")
    assert store.lost_params(folder) == {"a"}
    writer.finish(record("a"), {"x": np.full(3, 2.0)})  # trained again, on another machine: other bits
    assert store.lost_params(folder) == set()


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
            [
                sys.executable,
                "-c",
                "import sys, pathlib; from cnn_jax.records import store\nwith store.locked(pathlib.Path(sys.argv[1])): pass",
                str(tmp_path / "x"),
            ],
            capture_output=True,
            text=True,
        )
        assert f"in use by process {os.getpid()}" in other.stderr
    with store.locked(tmp_path / "x"):
        pass


def test_a_noisy_lock_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(bytes(range(256)))
    with store.locked(tmp_path):
        pass
    assert b"process" in (tmp_path / "lock").read_bytes()


def test_where_files_cannot_be_locked_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with store.locked(tmp_path):
        pass


def test_full_disk_is_said_in_one_line_and_glues_no_lines(folder: Path) -> None:
    writer = store.Writer(folder)
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    writer._path = Path("/dev/full")
    with pytest.raises(store.StoreError, match="No space left"):
        writer.finish(record("a"))
    writer.finish(record("a"))
    assert len(store.read(folder)) == 1


def test_a_line_cut_by_a_full_disk_does_not_spoil_the_next(folder: Path) -> None:
    """The size of a file is limited in a process of its own: half of a line is written, then there is room again."""
    code = """
        import json, resource, sys
        from cnn_jax.records import store
        writer = store.Writer(sys.argv[1])
        row = json.loads(sys.argv[2]) | {"filler": "x" * 1000}
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
        writer.finish(row)
        try:
            writer.finish(row | {"trial": "b"})
        except store.StoreError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        writer.finish(row | {"trial": "c"})
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(folder), json.dumps(record("a"))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("--out: ")
    assert [r["trial"] for r in store.read(folder)] == ["a", "c"]
    assert len(store.damaged(folder)) == 1


def test_names_that_no_file_system_takes_are_refused() -> None:
    for name in ("/tmp/" + "x" * 300, "none://bucket/x"):
        with pytest.raises(UsageError, match="--out"):
            store.check(name)


# ------------------------------------------------------------------------------------------------------- object stores


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """gs://here, kept in a folder by a backend of epath that cannot append, rename or make half an object."""
    backend = objects.install(tmp_path / "objects", monkeypatch.setattr)
    assert backend
    return "gs://here/sweep"


def test_an_object_store_holds_the_same(bucket: str) -> None:
    path = store.folder(bucket)
    assert not store.is_local(path)
    store.check(bucket)
    with pytest.raises(UsageError, match="no sweep"):
        store.read(bucket)
    with store.locked(path):
        store.begin(path, "python launch.py", "2026-01-01T00:00:00+00:00", [Trial(seed=0)])
        writer = store.Writer(bucket)
        writer.checkpoint("a", 5, {"step": np.array(5)})
        writer.checkpoint("a", 6, {"step": np.array(6)})
        assert [int(c["step"]) for c in store.checkpoints(bucket, "a")] == [6, 5]
        writer.finish(record("a"), {"x": np.ones(3)})
        writer.finish(record("b", "failed"))
        writer.finish(record("b"))
    assert [(r["trial"], r["status"]) for r in store.read(bucket)] == [("a", "done"), ("b", "done")]
    assert store.damaged(bucket) == []
    assert store.lost_params(bucket) == set()
    assert store.plan(bucket) == [Trial(seed=0)]
    assert list(store.checkpoints(bucket, "a")) == []
    np.testing.assert_array_equal(store.load_params(bucket, "a")["x"], np.ones(3))
