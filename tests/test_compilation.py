"""One compilation per program and machine (cnn_jax/training/compilation.py)."""

import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn_jax.ops import call
from cnn_jax.training import program
from cnn_jax.training.compilation import Options, compile_once
from cnn_jax.training.device_data import DeviceData
from cnn_jax.trial import ModelConfig, TrainConfig, Trial


class Slow:
    """A lowered program that notes the order of compilations, and takes until it is released."""

    def __init__(self, name: str, log: list[str], released: threading.Event | None = None):
        self.name, self.log, self.released = name, log, released
        self.begun = threading.Event()

    def compile(self, compiler_options: object = None) -> str:
        self.log.append(f"begin {self.name}")
        self.begun.set()
        if self.released is not None:
            assert self.released.wait(60)
        self.log.append(f"end {self.name}")
        return self.name


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_program_is_compiled_by_one_and_the_rest_by_others_meanwhile(cache: Path) -> None:
    log: list[str] = []
    released = threading.Event()
    first = {"train": Slow("first train", log, released), "evaluate": Slow("first evaluate", log)}
    second = {"train": Slow("second train", log), "evaluate": Slow("second evaluate", log)}
    found: dict[str, dict] = {}

    def run(name: str, programs: dict) -> None:
        found[name] = compile_once(programs, {}, "bucket")

    threads = [threading.Thread(target=run, args=("first", first)), threading.Thread(target=run, args=("second", second))]
    threads[0].start()
    assert first["train"].begun.wait(60)
    threads[1].start()
    assert second["evaluate"].begun.wait(60)  # while the first is compiling `train`
    assert "begin second train" not in log
    released.set()
    for thread in threads:
        thread.join(60)
    assert log.index("end first train") < log.index("begin second train")
    assert found["second"] == {"train": "second train", "evaluate": "second evaluate"}
    assert list(cache.glob("*.lock"))


def test_nothing_is_locked_without_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = jax.config.jax_compilation_cache_dir
    for folder in (None, "gs://bucket/programs", str(tmp_path / "missing")):
        jax.config.update("jax_compilation_cache_dir", folder)
        assert compile_once({"train": Slow("train", [])}, {}, "bucket") == {"train": "train"}
    jax.config.update("jax_compilation_cache_dir", before)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- settings


def settings(model: ModelConfig, images: int, epochs: int = 1) -> Options:
    """Settings of XLA for training on so many images of MNIST."""

    def array(*size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, np.uint8)

    shape, labels = (28, 28, 1), np.zeros(100, np.int32)
    data = DeviceData(array(images, *shape), array(images), array(100, *shape), array(100), 50, shape, 10, labels)  # type: ignore[arg-type]
    return program._compiler_options(Trial(model=model, train=TrainConfig(epochs=epochs)), data)


EMITTERS = "xla_cpu_use_fusion_emitters"


@pytest.mark.parametrize("name", ["chapter", "lenet5", "lenet5_dense", "simple_convnet"])
def test_a_short_training_in_c_is_compiled_quickly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "available", lambda: True)
    assert settings(ModelConfig(name), 10_000)[EMITTERS] is False
    assert EMITTERS not in settings(ModelConfig(name), 10_000, epochs=1000)
    assert EMITTERS not in settings(ModelConfig(name), 10_000_000)


@pytest.mark.parametrize("model", [ModelConfig("resnet20"), ModelConfig("cnn", activation="gelu")])
def test_a_network_with_layers_of_xla_is_not(model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "available", lambda: True)
    assert EMITTERS not in settings(model, 1000)
    assert settings(model, 1000)


def test_convolutions_of_xla_are_compiled_as_xla_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "available", lambda: False)
    assert settings(ModelConfig("chapter"), 1000) == {}
