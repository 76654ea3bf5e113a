"""Folders and caches that somebody else may have written: no code runs, nothing outside is written, nothing hangs."""

import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import synthetic
from rich.console import Console

from cnn_jax import cache_folder, report
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.records.arrays import _array as npy_array
from cnn_jax.trial import Trial

ROOT = Path(__file__).resolve().parents[1]
EARLIER = Path(__file__).with_name("sweep-0.1.0")  # a sweep of four trials, as version 0.1.0 left it
GOOD = synthetic.record(Trial(seed=0), 0.9, images=10)


def line(body: str | bytes) -> bytes:
    """A line of records whose checksum is right."""
    head = (body.encode() if isinstance(body, str) else body)[:-1]
    return head + b',"crc32":"%08x"}\n' % zlib.crc32(head + b"}")


def sweep(path: Path, *lines: bytes) -> Path:
    synthetic.folder(path, [synthetic.record(Trial(seed=1), 0.9, images=10)])
    (path / "records" / "mail.jsonl").write_bytes(b"".join(lines))
    return path


def config(**changes: object) -> dict:
    return {"config": GOOD["config"] | changes}


# ------------------------------------------------------------------------------------------------------------ records


NOT_RECORDS = {
    "no JSON": "{never}",
    "nested": '{"schema":1,"trial":"a","x":' + "[" * 100_000 + "]" * 100_000 + "}",
    "long integer": '{"schema":1,"trial":"a","params":' + "9" * 5000 + "}",
    "not UTF-8": b'{"schema":1,"trial":"\xff\xfe"}',
    "a list": "[1,2,3]",
    "three fields": json.dumps({"schema": 1, "trial": "a", "status": "done"}),
    "NaN": json.dumps(GOOD | {"test_loss": float("nan")}),
}
CHANGES = {
    "trial is a list": {"trial": ["a"]},
    "trial is a number": {"trial": 7},
    "trial is a path": {"trial": "/some/where/else"},
    "trial leads outside": {"trial": "../../x"},
    "trial is the folder": {"trial": ".."},
    "no schema": {"schema": "1"},
    "status": {"status": "fine"},
    "accuracy is text": {"test_accuracy": "0.9"},
    "accuracy is a bool": {"test_accuracy": True},
    "accuracy above 1": {"val_accuracy": 9.0},
    "negative count": {"params": -1},
    "count of 64 bits": {"macs": 2**64},
    "history is an object": {"history": {}},
    "history without epoch": {"history": [{"val_loss": 1.0}]},
    "epoch below 0": {"history": [{"epoch": -1}]},
    "curve beyond float32": {"history": [{"epoch": 1, "val_loss": 1e200}]},
    "finished": {"finished": "yesterday"},
    "bits": {"test_correct": "AAAA" * 99},
    "not base64": {"test_correct": "!"},
    "done without data": {"data": None},
    "versions": {"versions": ["jax"]},
    "config is empty": {"config": {}},
    "config is a list": {"config": []},
    "seed is text": config(seed="0"),
    "epochs is text": config(train=GOOD["config"]["train"] | {"epochs": "5"}),
    "filters are text": config(model=GOOD["config"]["model"] | {"filters": "8"}),
    "options are an object": config(model=GOOD["config"]["model"] | {"options": {"a": 1}}),
}


def test_f3_a_surrogate_is_read_as_its_escape(tmp_path: Path) -> None:
    """A command may name a path that is not UTF-8."""
    out = sweep(tmp_path, line(json.dumps(GOOD | {"command": "\ud800"})))
    assert [record["command"] for record in store.read(out)][:1] == ["\\ud800"]
    assert report.write(out).exists()


@pytest.mark.parametrize("what", [*NOT_RECORDS, *CHANGES])
def test_f2_f3_what_is_no_record_is_a_damaged_line(what: str, tmp_path: Path) -> None:
    text = NOT_RECORDS.get(what) or json.dumps(GOOD | CHANGES[what])
    out = sweep(tmp_path / "in" / "out", line(text))
    assert store.damaged(out) == ["mail.jsonl:1"]
    assert [r["config"]["seed"] for r in store.read(out)] == [1]
    assert "mail.jsonl:1" in report.write(out).read_text()
    report.write_tensorboard(out)
    assert [path.name for path in tmp_path.rglob("events.out*")] == ["events.out.tfevents.0.cnn_jax"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["/some/where", "../x", "", ".", "a/b"])
def test_f2_an_id_that_is_a_path_is_refused_wherever_it_is_used(name: str, tmp_path: Path) -> None:
    out = sweep(tmp_path)
    for use in (store.load_params, lambda *a: list(store.checkpoints(*a))):
        with pytest.raises(UsageError, match="not the id of a trial"):
            use(out, name)
    raw = json.loads(Trial().canonical)
    raw["model"]["padding"] = f"../{name}/x"
    assert "/" not in Trial.from_json(json.dumps(raw)).id


def test_f2_tensorboard_files_do_not_follow_a_link_out_of_the_folder(tmp_path: Path) -> None:
    out = sweep(tmp_path / "out")
    (tmp_path / "home").mkdir()
    (out / "tensorboard").symlink_to(tmp_path / "home")
    with pytest.raises(store.StoreError, match="symbolic link"):
        report.write_tensorboard(out)
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket", "zero"])
def test_f3_only_regular_files_are_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = sweep(tmp_path)
    monkeypatch.chdir(out / "records")  # the name of a socket must be short
    for name in ("x.jsonl", "../sweep.json", "../plan/0.jsonl.gz"):
        Path(name).unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(name)
        elif kind == "folder" and name == "x.jsonl":
            os.mkdir(name)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(name)
        elif kind == "zero":
            os.symlink("/dev/zero", name)
    code = "import sys; from cnn_jax.records import store; print(len(store._scan(store.folder(sys.argv[1])).records))"
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout == "1\n", done.stderr
    with pytest.raises(OSError, match="regular" if kind != "folder" else "egular|directory"):
        store.read_file(out / "records" / "x.jsonl", 100)


def test_f3_files_beyond_the_limit_are_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = sweep(tmp_path, line(json.dumps(GOOD)))
    monkeypatch.setattr("cnn_jax.records.lines.MAX_LINE", 100)
    assert store.read(out) == []
    monkeypatch.setattr(store, "MAX_RECORDS", 10)
    assert len(store.damaged(out)) == 2


@pytest.mark.parametrize("commands", ["x", [1], [["a"]], [{"command": 7, "time": "now"}], {"a": 1}, [None]])
def test_f3_a_header_whose_commands_are_no_texts_is_damaged(commands: object, tmp_path: Path) -> None:
    out = sweep(tmp_path)
    (out / "sweep.json").write_bytes(line(json.dumps({"schema": 1, "commands": commands, "damaged": []})))
    assert store.commands(out) == []
    assert report.write(out).exists()


def test_f3_a_small_file_of_large_arrays_is_refused(tmp_path: Path) -> None:
    out = sweep(tmp_path)
    place = out / "trials" / "a" / "params.npz"
    place.parent.mkdir(parents=True)
    np.savez_compressed(place, x=np.zeros(10**6))
    with pytest.raises(ValueError, match="compressed"):
        store.load_params(out, "a")
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": (10**12,), "fortran_order": False, "descr": "<f8"})
    with pytest.raises(ValueError, match="size of an array"):
        npy_array(buffer.getvalue())
    for order in "CF":
        arrays = {"x": np.asarray(np.arange(6.0).reshape(2, 3), order=order), "n": np.array(3), "none": np.zeros((0, 2))}
        for name, value in store.from_npz(store.to_npz(arrays)).items():
            np.testing.assert_array_equal(value, arrays[name])


# ------------------------------------------------------------------------------------------------------ other versions


def test_f4_a_record_of_an_earlier_version_has_the_defaults_of_its_time(tmp_path: Path) -> None:
    missing = ("convolution", "precision", "code", "versions", "reason", "lanes")
    out = sweep(tmp_path, line(json.dumps({k: v for k, v in GOOD.items() if k not in missing})))
    assert store.damaged(out) == []
    assert {name: store.read(out)[0][name] for name in missing} == dict.fromkeys(missing)
    assert report.write(out).exists()


def test_f4_what_a_later_version_wrote_is_named_with_it_and_left_out(tmp_path: Path) -> None:
    raw = GOOD | config(train=GOOD["config"]["train"] | {"curriculum": "easy"}) | {"versions": {"cnn_jax": "9.1"}}
    out = sweep(tmp_path, line(json.dumps(raw)), line(json.dumps(GOOD | {"energy": 3})))
    text = (json.dumps(raw["config"]) + "\n").encode()
    name = hashlib.sha256(text).hexdigest()[:16]
    (out / "plan" / f"{name}.jsonl.gz").write_bytes(gzip.compress(text))
    header = json.loads((out / "sweep.json").read_bytes())
    del header["crc32"]
    header["commands"].append({"command": "python launch.py", "time": "now", "plan": name, "version": "9.1"})
    (out / "sweep.json").write_bytes(line(json.dumps(header)))
    assert store.later(out) == [
        f"1 {what} left out: unknown field 'curriculum', written by cnn_jax 9.1" for what in ("record", "planned trial")
    ]
    assert len(store.read(out)) == 2
    assert "curriculum" in report.write(out).read_text()


def test_f4_a_sweep_of_version_0_1_0_is_read_and_found_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(EARLIER, out)
    assert [r["status"] for r in store.read(out)] == ["done"] * 4
    assert (store.damaged(out), store.later(out), len(store.plan(out))) == ([], [], 4)
    assert {t.id for t in store.plan(out)} == {r["trial"] for r in store.read(out)}
    words = ["--filters=2,3", "--kernel_size=3", "--padding=same", "--epochs=1", "--seeds=2", "--nokeep_params"]
    done = subprocess.run([sys.executable, "launch.py", *words, "--dry_run", f"--out={out}"], cwd=ROOT, capture_output=True)
    assert b"4 of them are done" in b" ".join(done.stdout.split()), done.stderr


# -------------------------------------------------------------------------------------------------------------- caches


HARM = {
    "folder": lambda cache: cache.chmod(0o777),
    "group": lambda cache: cache.chmod(0o770),
    "native": lambda cache: (cache / "native").chmod(0o777),
    "programs": lambda cache: (cache / "xla").chmod(0o773),
    "file": lambda cache: (cache / "native" / "conv-0-0.so").chmod(0o666),
    "parent": lambda cache: cache.parent.chmod(0o777),
}


def cache(path: Path) -> Path:
    for name in ("native", "xla", "digits-0"):
        cache_folder.create(path / name)
    (path / "native" / "conv-0-0.so").write_bytes(b"code")
    (path / "native" / "conv-0-0.so").chmod(0o600)
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A temporary folder for the private cache of one test."""
    (tmp_path / "tmp").mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    cache_folder._private_folder.cache_clear()
    yield tmp_path / "tmp"
    cache_folder._private_folder.cache_clear()


@pytest.mark.parametrize("harm", HARM)
def test_f1_a_cache_that_others_can_write_is_not_used(harm: str, tmp_path: Path, temporary: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    home = cache(tmp_path / "home" / "cache")
    home.parent.chmod(0o700)
    assert cache_folder.distrust(home) is None
    HARM[harm](home)
    found = cache_folder.cache_folder(home)
    assert cache_folder.cache_folder(home) == found
    assert found.parent == temporary
    assert found.stat().st_mode & 0o777 == 0o700
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "writable by other users" in err
    assert str(home) in err


def test_f1_files_of_another_user_are_not_used(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner is changed where that is allowed; elsewhere the check is told that the file's owner is another user."""
    home = cache(tmp_path / "cache")
    culprit = home / "native" / "conv-0-0.so"
    if os.geteuid() == 0:
        os.chown(culprit, 12345, 12345)
    else:
        monkeypatch.setattr(cache_folder, "_owners", lambda: {0})
    assert "belongs to another user" in str(cache_folder.distrust(home))
    assert cache_folder.cache_folder(home).parent == temporary


def test_f1_a_link_in_the_cache_is_followed_and_checked(tmp_path: Path) -> None:
    home, other = cache(tmp_path / "cache"), cache(tmp_path / "other")
    shutil.rmtree(home / "xla")
    (home / "xla").symlink_to(other)
    assert cache_folder.distrust(home) is None
    other.chmod(0o777)
    assert "writable by other users" in str(cache_folder.distrust(home))


def test_f1_a_private_folder_that_somebody_else_made_first_is_not_used(temporary: Path) -> None:
    (temporary / f"cnn_jax-{os.geteuid()}").mkdir()
    (temporary / f"cnn_jax-{os.geteuid()}").chmod(0o777)
    found = cache_folder._private_folder()
    assert found.parent == temporary
    assert found.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("bad", ["native", "."])
@pytest.mark.slow
def test_f1_planted_code_is_not_loaded(bad: str, tmp_path: Path) -> None:
    """All three caches of a process: compiled code, images and JAX's programs."""
    home = cache(tmp_path / "cache")
    (home / bad).chmod(0o777)
    code = (
        "from cnn_jax import data; from cnn_jax.ops import native; from cnn_jax.trial import DataConfig\n"
        "from cnn_jax.execution.backends import local\n"
        "print(native.library().path); print(local.environment(1)['JAX_COMPILATION_CACHE_DIR'])\n"
        "print(data.load(DataConfig()).train_images.base.filename if 0 else data.load(DataConfig()).checksum)"
    )
    environment = {**os.environ, "CNN_JAX_CACHE": str(home), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stderr.count("\n") == 1, done.stderr
    assert str(home) not in done.stdout
    assert sorted(path.name for path in home.iterdir()) == ["digits-0", "native", "xla"]


def test_reports_of_untrusted_folders_reach_the_terminal(tmp_path: Path) -> None:
    out = sweep(tmp_path, line(json.dumps(GOOD | {"reason": "\x1b]0;title\x07", "status": "failed"})))
    console = Console(file=io.StringIO(), width=120)
    report.terminal([out], console)
    assert "\x1b]0" not in console.file.getvalue()  # type: ignore[attr-defined]
