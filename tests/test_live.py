"""The report while a sweep runs."""

import json
import os
import signal
import threading

import pytest
import synthetic
from launching import here

from cnn_jax import report
from cnn_jax.cli import live
from cnn_jax.trial import Trial


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def settled(one):
    if one.thread:
        one.thread.join()


def test_pages_are_at_least_ten_seconds_and_fifty_times_their_cost_apart():
    clock, written = Clock(), []
    one = live.Live(lambda: written.append(clock.now), clock)
    for second in range(100):
        clock.now = float(second)
        one.tick()
        settled(one)
    assert written == [30, 40, 50, 60, 70, 80, 90]

    def slow():
        written.append(clock.now)
        clock.now += 2

    clock.now, written[:] = 0.0, []
    one = live.Live(slow, clock)
    for _ in range(300):
        clock.now += 1
        one.tick()
        settled(one)
    assert written == [30, 132, 234]


def test_one_page_at_a_time_and_none_after_the_last():
    clock, begun, may_end = Clock(), [], threading.Event()

    def write():
        begun.append(clock.now)
        may_end.wait(10)

    one = live.Live(write, clock)
    clock.now = 30.0
    one.tick()
    clock.now = 100.0
    one.tick()
    assert begun == [30.0]
    may_end.set()
    one.close()
    clock.now = 1000.0
    one.tick()
    assert begun == [30.0]


def test_an_error_ends_it_and_hurts_nothing():
    clock, tried = Clock(), []

    def broken():
        tried.append(1)
        raise OSError("disk full")

    one = live.Live(broken, clock)
    for second in (30.0, 60.0, 90.0):
        clock.now = second
        one.tick()
        settled(one)
    one.close()
    assert tried == [1]


def test_a_page_of_a_running_sweep_says_how_far_it_is(tmp_path):
    records = synthetic.sweep(filters=(8, 16), kernels=(3,))
    plan = [Trial.from_json(json.dumps(r["config"])) for r in records]
    folder = synthetic.folder(tmp_path, records[:5], plan)
    running = report.write(folder, plan, running=True).read_text()
    assert "5 of 12 trials so far" in running
    assert '<div class="cnn-jax" data-live>' in running
    assert "rerun the same command" not in running
    done = report.write(folder, plan).read_text()
    assert "data-live>" not in done
    assert "7 planned trials not run yet: rerun the same command" in done
    # It reloads itself only if it was opened to do so.
    assert 'location.hash === "#live"' in running


@pytest.mark.slow
def test_a_sweep_writes_pages_on_its_way_and_ends_with_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(live, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", 0)
    original, pages = report.write, []

    def write(*args, **settings):
        path = original(*args, **settings)
        pages.append((settings.get("running", False), path.read_text()))
        return path

    monkeypatch.setattr(report, "write", write)
    flags = ["--filters=2,4", "--kernel_size=3", "--padding=valid", "--epochs=3", "--seeds=2", "--workers=1"]
    assert here("grid", *flags, f"--out={tmp_path}").returncode == 0
    *before, last = pages
    assert before
    assert all(running and "of 4 trials so far" in text and text.endswith("</html>\n") for running, text in before)
    assert not last[0]
    assert "data-live>" not in last[1]


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_a_page_that_does_not_claim_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "FIRST_SECONDS", 0.0)
    original = report.write

    def write(*args, **settings):
        path = original(*args, **settings)
        if settings.get("running"):
            os.kill(os.getpid(), signal.SIGINT)
        return path

    monkeypatch.setattr(report, "write", write)
    flags = ["--filters=2,4", "--kernel_size=3", "--padding=valid", "--epochs=400", "--seeds=2", "--workers=1"]
    assert here("grid", *flags, f"--out={tmp_path}").returncode == 130
    page = (tmp_path / "report.html").read_text()
    assert "data-live>" not in page
    assert "not run yet: rerun the same command" in page
