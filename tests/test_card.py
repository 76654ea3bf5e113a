"""The picture of a sweep's answer."""

import io

import numpy as np
import pytest
import synthetic
from PIL import Image

from cnn_jax import cli, stats
from cnn_jax.report import card


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def near(image, colour):
    """Where pixels have about that colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(image - wanted).max(axis=-1) < 12


SWEEPS = {
    "effects": synthetic.sweep(effect=0.02),
    "none": synthetic.sweep(effect=0.0, seeds=2),
    "one cell": synthetic.sweep(filters=(8,), kernels=(3,), paddings=("valid",)),
    "many levels": synthetic.sweep(filters=tuple(range(1, 12)), kernels=(3,), paddings=("valid",), seeds=2),
    "more levels than are drawn": synthetic.sweep(filters=tuple(range(1, 30)), kernels=(3,), paddings=("valid",), seeds=2),
    "one seed": synthetic.sweep(seeds=1),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_card_fits_its_picture(name):
    image = pixels(card.png(stats.analyse(SWEEPS[name]), "digits"))
    assert image.shape == (630, 1200, 3)
    paper = near(image, card.PAPER)
    assert paper[:30].all()  # nothing leaves the margins
    assert paper[:, :50].all()
    assert paper[:, 1160:].all()
    assert paper[618:].all()
    assert (~paper).mean() > 0.01


def test_every_run_of_the_chosen_factor_is_drawn_in_its_levels_colour():
    analysis = stats.analyse(synthetic.sweep(effect=0.02))
    assert card._factor(analysis) == "filters"  # the largest effect
    image = pixels(card.png(analysis, "digits"))
    places = [np.flatnonzero(near(image, colour).any(axis=0)) for colour in card.LEVEL_COLOURS[:3]]
    assert all(len(columns) for columns in places)
    assert places[0].mean() < places[1].mean() < places[2].mean()
    heights = [np.flatnonzero(near(image, colour).any(axis=1)).mean() for colour in card.LEVEL_COLOURS[:3]]
    assert heights[0] > heights[1] > heights[2]  # more filters are better here, and up is better


def test_the_command_writes_the_file(tmp_path, capsys):
    folder = synthetic.folder(tmp_path / "sweep", synthetic.sweep())
    assert cli.launch(["launch.py", "card", str(folder)]) == 0
    assert pixels((folder / "card.png").read_bytes()).shape == (630, 1200, 3)
    assert cli.launch(["launch.py", "card", str(folder), f"--out={tmp_path / 'x.png'}"]) == 0
    assert (tmp_path / "x.png").exists()
    capsys.readouterr()
    for argv, message in (
        ([str(tmp_path / "nothing")], "error: "),
        ([], "card: takes one folder, not 0"),
        ([str(folder), f"--out={tmp_path / 'x.svg'}"], "must be a .png file"),
    ):
        assert cli.launch(["launch.py", "card", *argv]) == 2
        assert message in capsys.readouterr().err
