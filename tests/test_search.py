"""Search strategies: those by name, a fork's on the command line, and bad ones."""

import csv
import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from launching import plan

from cnn_jax import search
from cnn_jax.errors import UsageError
from cnn_jax.sweep import product

ROOT = Path(__file__).resolve().parents[1]
PLANNED = product({"filters": [(4,), (8,), (16,), (32,)], "padding": ["valid", "same"]}, seeds=3)

FORK = '''
    """Racing: one more seed for the better half of the cells, until one is left."""

    import dataclasses


    class Halving:
        def __init__(self, planned):
            self.planned = [trial for trial in planned if trial.seed == 0]

        def ask(self, trials, records):
            if not trials:
                return self.planned
            newest = max(trial.seed for trial in trials)
            score = {r["trial"]: r["val_accuracy"] for r in records}
            last = sorted((t for t in trials if t.seed == newest), key=lambda t: score[t.id], reverse=True)
            return [dataclasses.replace(t, seed=newest + 1) for t in last[: len(last) // 2]]


    class Broken:
        def __init__(self, planned): pass
        def ask(self, trials, records): return ["filters=8"]


    def fails(planned): raise ValueError("no cells")
    def nothing(planned): return None
    number = 3
'''


def test_all_asks_once_for_everything() -> None:
    strategy = search.load("all", PLANNED)
    assert search.ask(strategy, (), ()) == PLANNED
    assert search.ask(strategy, PLANNED, ()) == []


def test_random_draws_whole_cells_and_the_same_ones_again() -> None:
    found = search.ask(search.load("random:3", PLANNED), (), ())
    cells = {dataclasses.replace(trial, seed=0) for trial in found}
    assert (len(cells), len(found)) == (3, 9)
    assert found == search.ask(search.load("random:3", PLANNED), (), ())
    assert search.ask(search.load("random:3", PLANNED), found, ()) == []
    assert len(search.ask(search.load("random:99", PLANNED), (), ())) == len(PLANNED)
    counts = [sum(t in search.ask(search.load(f"random:{n}", PLANNED), (), ()) for t in PLANNED) for n in (1, 2, 8)]
    assert counts == [3, 6, 24]


def test_what_was_asked_for_before_is_not_run_again() -> None:
    class Stubborn:
        def ask(self, trials, records):  # type: ignore[no-untyped-def]
            return PLANNED[:2] * 2

    assert search.ask(Stubborn(), (), ()) == PLANNED[:2]
    assert search.ask(Stubborn(), PLANNED[:2], ()) == []


def test_a_search_of_a_fork_decides_what_runs_and_a_rerun_repeats_it(tmp_path: Path) -> None:
    (tmp_path / "racing.py").write_text(textwrap.dedent(FORK))
    args = ["--search=racing:Halving", "--filters=2,4,8,16", "--kernel_size=3", "--padding=valid", "--epochs=2", "--out=out"]
    command = [sys.executable, str(ROOT / "launch.py"), *args]

    def rows() -> list[dict[str, str]]:
        with open(tmp_path / "out" / "results.csv") as file:
            return list(csv.DictReader(file))

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 more trials of the search" in done.stdout
    by_seed = {seed: [row for row in rows() if row["seed"] == seed] for seed in "012"}
    assert [len(by_seed[seed]) for seed in "012"] == [4, 2, 1]
    ranked = sorted(by_seed["0"], key=lambda row: -float(row["val_accuracy"]))
    assert {row["filters"] for row in by_seed["1"]} == {row["filters"] for row in ranked[:2]}
    before = rows()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0
    assert rows() == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("randm:3", "unknown strategy 'randm:3': all, random:N"),
        ("random:0", "unknown strategy 'random:0'"),
        ("random:x", "unknown strategy 'random:x'"),
        ("racing:fails", "racing:fails failed: ValueError: no cells (racing.py:"),
        ("racing:nothing", "returned a NoneType, which has no method ask"),
        ("racing:number", "is a int: it must be a function of the planned trials"),
        ("racing:Broken", "Broken.ask returned a str in its list: it must hold Trials alone"),
        ("racing:gone", "has no attribute 'gone'"),
    ],
)
def test_a_bad_search_is_one_line(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "racing.py").write_text(textwrap.dedent(FORK))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "racing", raising=False)
    done = plan(["grid", f"--search={name}"])
    status, err = done.returncode, done.stderr
    assert (status, err.count("\n")) == (2, 1)
    assert words in err


def test_an_answer_that_is_no_list_of_trials_is_refused() -> None:
    class Wrong:
        def ask(self, trials, records):  # type: ignore[no-untyped-def]
            return [1]

    with pytest.raises(UsageError, match=r"Wrong.ask returned a int"):
        search.ask(Wrong(), (), ())
