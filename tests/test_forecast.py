"""The time that a sweep still needs, against sweeps whose times are known: row C8 of the reported faults."""

import pytest

from cnn_jax.execution.forecast import ENOUGH_SECONDS, Forecast
from cnn_jax.trial import ModelConfig, Trial

SMALL, LARGE = ([Trial(ModelConfig(filters=(f,)), seed=s) for s in range(3)] for f in (10, 100))
IMAGES = 1000


def forecast():
    return Forecast([*SMALL, *LARGE], lambda trial: IMAGES, lambda trial: IMAGES * float(trial.model.filters[0]))


def test_c8_nothing_is_said_while_programs_are_compiled_or_training_has_just_begun():
    f = forecast()
    assert f.seconds_left(2) is None
    f.compiled(LARGE[0], 60.0)
    assert f.seconds_left(2) is None
    f.trained(LARGE[:1], 10, 0.9 * ENOUGH_SECONDS)
    assert f.seconds_left(2) is None
    assert f.share_done == pytest.approx(10 * 100 / (3 * 1000 * 110))


def test_c8_time_goes_by_cost_until_a_program_was_timed_itself():
    f = forecast()
    f.compiled(LARGE[0], 2.0)
    f.trained(LARGE[:1], 500, 50.0)  # 0.1 s an image; 2,500 are left, and 3,000 that cost a tenth, and a program
    assert f.seconds_left(1) == pytest.approx(250 + 30 + 2)
    assert f.seconds_left(2) == pytest.approx((250 + 30 + 2) / 2)
    f.compiled(SMALL[0], 4.0)
    f.trained(SMALL[:1], 1000, 50.0)  # slower than its cost says
    f.finished(SMALL[0].id)
    assert f.seconds_left(1) == pytest.approx(250 + 2000 * 0.05)


def test_c8_the_last_trials_are_not_shared():
    f = forecast()
    f.trained(LARGE[:1], 100, 10.0)
    for trial in (*SMALL, *LARGE[1:]):
        f.finished(trial.id)
    assert f.seconds_left(8) == pytest.approx(90)  # one worker trains it, whatever the others do


def test_c8_trials_side_by_side_share_their_images_and_a_restart_begins_anew():
    f = forecast()
    f.trained(SMALL, 2700, 27.0)  # 900 each
    assert f.seconds_left(1) == pytest.approx(300 * 0.01 + 3000 * 0.1)
    f.restarted(SMALL[:1])
    assert f.seconds_left(1) == pytest.approx(1200 * 0.01 + 3000 * 0.1)
    for trial in (*SMALL, *LARGE):
        f.finished(trial.id)
    assert f.seconds_left(1) == 0
    assert f.share_done == 1
