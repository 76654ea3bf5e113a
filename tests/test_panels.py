"""Panels of a fork on the page of `launch.py inspect`."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from launching import plan

ROOT = Path(__file__).resolve().parents[1]

FORK = '''
    import numpy as np


    def mirrored(network, images_NHWC):
        """How the answer changes when the image is mirrored."""
        before, after = (network.logits(x) for x in (images_NHWC, images_NHWC[:, :, ::-1]))
        change = np.abs(before - after).max(-1)
        return {"mirror": images_NHWC[:, :, ::-1], "change": change, "signed": images_NHWC[..., 0] - 5.0}


    def wrong_shape(network, images_NHWC): return {"all": np.zeros((2, 3))}
    def not_arrays(network, images_NHWC): return [1, 2]
    def raises(network, images_NHWC): raise ValueError("no way")
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fork's file and a small sweep."""
    home = tmp_path_factory.mktemp("fork")
    (home / "looks.py").write_text(textwrap.dedent(FORK))
    args = ["--filters=4", "--kernel_size=3", "--padding=valid", "--seeds=1", "--epochs=1", "--out=sweep"]
    subprocess.run([sys.executable, str(ROOT / "launch.py"), *args], cwd=home, check=True, capture_output=True, timeout=300)
    return home


def test_a_panel_is_a_section_of_the_page_and_in_the_file(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), "inspect", "sweep", "--panel=looks:mirrored", "--image=3"],
        cwd=home, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    page = (home / "sweep" / "inspect" / "inspect.html").read_text()
    assert "How the answer changes when the image is mirrored" in page
    assert "mirror of image 0" in page
    (file,) = (home / "sweep" / "inspect").glob("*.npz")
    with np.load(file) as arrays:
        from cnn_jax import open_trial

        network = open_trial(home / "sweep")
        image = network.dataset().test_images[3:4]
        np.testing.assert_array_equal(arrays["panel/mirrored/mirror"], image[:, :, ::-1])
        change = np.abs(network.logits(image) - network.logits(image[:, :, ::-1])).max()
        np.testing.assert_allclose(arrays["panel/mirrored/change"], [change], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("looks", "'looks' is not legal: use package.module:attribute"),
        ("looks:gone", "has no attribute 'gone'"),
        ("looks:wrong_shape", "'all' is float64 of shape (2, 3): must be numbers of shape"),
        ("looks:not_arrays", "returned a list: it must return a dict of arrays"),
        ("looks:raises", "looks:raises failed: ValueError: no way (looks.py:"),
    ],
)
def test_a_bad_panel_is_one_line_and_nothing_is_written(
    name: str, words: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = plan(["inspect", "sweep", f"--panel={name}", f"--out={tmp_path / 'page'}"])
    status, err = done.returncode, done.stderr
    assert (status, err.count("\n")) == (2, 1)
    assert words in err
    assert not (tmp_path / "page").exists()
