"""`doctor` in environments with one problem each: it is reported, with the command that fixes it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from launching import ROOT, launch

from cnn_jax.cli import doctor


def examined(*words: str, cwd: Path = ROOT, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """`launch.py doctor`; None removes a variable."""
    return launch("doctor", *words, cwd=cwd, env=environment)


def faults(done: subprocess.CompletedProcess) -> dict[str, list[tuple[str, str]]]:
    """(problem, remedy) by the name of the finding, from --json."""
    assert done.stderr == ""
    found = {f["name"]: [(g["problem"], g["remedy"]) for g in f["faults"]] for f in json.loads(done.stdout)["findings"]}
    return {name: listed for name, listed in found.items() if listed}


@pytest.fixture(scope="module")
def well() -> subprocess.CompletedProcess:
    return examined()


def test_nothing_is_wrong_here_and_80_columns_are_enough(well: subprocess.CompletedProcess) -> None:
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.endswith("\nall is well\n")
    names = [line.split()[0] for line in well.stdout.splitlines()[:-1] if not line.startswith(" ")]
    assert names == ["python", "packages", "devices", "memory", "cores", "compiler", "caches", "data", "results"]
    assert max(map(len, well.stdout.splitlines())) <= 80
    words = " ".join(well.stdout.split())
    for name in doctor.PACKAGES:
        assert f"{name} {doctor._version(name)}" in words


@pytest.mark.slow
def test_without_a_compiler(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "CC": None, "CNN_JAX_CACHE": str(tmp_path / "cache")}
    done = examined("--json", **environment)
    assert done.returncode == 1
    ((problem, remedy),) = faults(done).pop("compiler")
    assert "there is no C compiler" in problem
    assert remedy == "apt-get install gcc"
    text = examined(**environment)
    assert text.returncode == 1
    assert "fix: apt-get install gcc\n" in text.stdout
    assert text.stdout.endswith("\n1 fault\n")
    assert max(map(len, text.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_a_compiler_that_fails(tmp_path: Path) -> None:
    found = faults(examined("--json", CC="false", CNN_JAX_CACHE=str(tmp_path / "cache")))
    assert list(found) == ["compiler"]
    assert "false failed: exit status 1" in found["compiler"][0][0]
    # A choice is no fault.
    assert examined(CC="false", CNN_JAX_NATIVE="0").returncode == 0


@pytest.mark.parametrize("folder", ["/dev/null/cache", "/proc/cache"])
@pytest.mark.slow
def test_a_cache_that_cannot_be_written(folder: str) -> None:
    done = examined("--json", CNN_JAX_CACHE=folder)
    assert done.returncode == 1
    assert "export CNN_JAX_CACHE=DIR, a folder of yours" in [remedy for _, remedy in faults(done)["caches"]]


@pytest.mark.slow
def test_a_cache_that_others_can_write(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    ((problem, remedy),) = faults(examined("--json", CNN_JAX_CACHE=str(cache)))["caches"]
    assert "is writable by other users" in problem
    assert remedy == f"chmod -R go-w {cache}"
    subprocess.run(remedy, shell=True, check=True)
    assert "caches" not in faults(examined("--json", CNN_JAX_CACHE=str(cache)))


@pytest.mark.slow
def test_a_gpu_that_jax_does_not_use(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JAX_PLATFORMS": None}
    if doctor._gpus():
        pytest.skip("this machine has a GPU")
    done = examined("--json", **environment)
    assert done.returncode == 1
    ((problem, remedy),) = faults(done)["devices"]
    assert problem == "the machine has 2 GPUs (NVIDIA H100) and JAX uses the CPU"
    assert remedy == f"pip install -U 'jax[cuda12]=={doctor._version('jax')}'"
    # Who asks for the CPU gets it.
    assert examined("--json", **environment | {"JAX_PLATFORMS": "cpu"}).returncode == 0


def test_libraries_that_do_not_fit_together(tmp_path: Path) -> None:
    (tmp_path / "flax").mkdir()
    (tmp_path / "flax" / "__init__.py").write_text("raise ImportError('cannot import name mapping')\n")
    ((problem, remedy),) = faults(examined("--json", PYTHONPATH=str(tmp_path)))["devices"]
    assert problem == "JAX and its libraries cannot be imported together: ImportError: cannot import name mapping"
    assert remedy == "pip install -U jax jaxlib flax optax"


@pytest.mark.slow
def test_a_platform_that_is_not_there() -> None:
    ((problem, remedy),) = faults(examined("--json", JAX_PLATFORMS="no_such_platform"))["devices"]
    assert problem.startswith("JAX has no device for JAX_PLATFORMS=no_such_platform: ")
    assert remedy == "unset JAX_PLATFORMS"


@pytest.mark.slow
def test_data_sets_are_listed(tmp_path: Path) -> None:
    for name in ("mnist/3.0.1", "colours/two/1.0.0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "dataset_info.json").touch()
    done = examined("--json", TFDS_DATA_DIR=str(tmp_path))
    assert done.returncode == 0
    lines = next(f["lines"] for f in json.loads(done.stdout)["findings"] if f["name"] == "data")
    assert lines[:2] == [f"{tmp_path} (TFDS_DATA_DIR)", "prepared: colours/two, mnist"]
    ((problem, remedy),) = faults(examined("--json", TFDS_DATA_DIR=str(tmp_path / "absent")))["data"]
    assert (problem, remedy) == ("TFDS_DATA_DIR is not a folder", f"mkdir -p {tmp_path}/absent")


def test_old_and_absent_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    known = doctor._version
    versions = {"jax": "0.4.30", "optax": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else known(name))
    problems = [(fault.problem, fault.remedy) for fault in doctor._packages().faults]
    assert problems == [
        ("optax is not installed", "pip install optax"),
        ("jax 0.4.30 is older than 0.7.2", "pip install -U 'jax>=0.7.2'"),
    ]
    assert doctor._numbers("0.10.2rc1") < doctor._numbers("0.10.2") > doctor._numbers("0.9.3")


def test_a_container_with_less_time_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.cores, "allowed", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(doctor, "_quota", lambda: 1.5)
    (fault,) = doctor._cores().faults
    assert (fault.remedy, "1.5 cores" in fault.problem) == ("python launch.py --workers=1", True)
    monkeypatch.setattr(doctor, "_quota", lambda: 4.0)
    assert doctor._cores().faults == ()


@pytest.mark.slow
def test_bad_words_are_one_line() -> None:
    for words, said in ((["all"], "doctor takes no arguments"), (["--jsom"], "did you mean --json?")):
        done = examined(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr
