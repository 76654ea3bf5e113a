"""Files of results as trackers write them: which columns are taken, and whether the report says what the numbers say."""

import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cnn_jax import cli, imports, report, stats
from cnn_jax.errors import UsageError
from cnn_jax.imports import Wanted
from cnn_jax.report import imported, words

# One row per (lr, width, seed). The width of 64 adds 0.02, the rate of 0.1 takes 0.01, nothing interacts.
GRID = list(itertools.product((0.01, 0.1), (32, 64), (0, 1, 2)))
VALUES = {(lr, w, s): round(0.9 + 0.02 * (w == 64) - 0.01 * (lr == 0.1) + 0.001 * (s - 1), 4) for lr, w, s in GRID}
FAILED, NAN = (0.1, 32, 1), (0.01, 32, 2)


def value(key, lost=""):
    return lost if key == FAILED else "nan" if key == NAN else VALUES[key]


def optuna():
    head = "number,value,datetime_start,datetime_complete,duration,params_lr,params_seed,params_width,user_attrs_host,state"
    rows = [
        f"{n},{value((lr, w, s)) if (lr, w, s) != NAN else ''},2026-11-27 02:57:30.986927,2026-11-27 02:57:31.205055,"
        f"0 days 00:00:00.218128,{lr},{s},{w},a,{'FAIL' if (lr, w, s) in (FAILED, NAN) else 'COMPLETE'}"
        for n, (lr, w, s) in enumerate(GRID)
    ]
    return [f",{head}", *(f"{i},{row}" for i, row in enumerate(rows))]


def mlflow():
    head = (
        "run_id,experiment_id,status,artifact_uri,start_time,end_time,metrics.val_acc,metrics.loss,params.width,params.lr,"
        "params.seed,params.optimizer,tags.mlflow.runName,tags.mlflow.user"
    )
    rows = [
        f"{i:032x},7,{'FAILED' if k == FAILED else 'FINISHED'},file:///mlruns/7/{i:032x},2026-11-27 02:58:31+00:00,"
        f"2026-11-27 02:58:32+00:00,{value(k)},0.5,{k[1]},{k[0]},{k[2]},adam,rare-eel-{i},ann"
        for i, k in enumerate(GRID)
    ]
    return [head, *rows]


def ray():
    head = (
        ",val_acc,timestamp,checkpoint_dir_name,done,training_iteration,trial_id,date,time_this_iter_s,time_total_s,pid,"
        "hostname,node_ip,time_since_restore,iterations_since_restore,config/lr,config/net/width,config/seed,logdir"
    )
    rows = [
        f"{i},{value(k)},1795748267,,False,10,511fc_{i:05d},2026-11-27_02-57-47,0.1,1.{i},11126,vm,10.0.0.2,1.{i},10,{k[0]},"
        f"{k[1]},{k[2]},511fc_{i:05d}"
        for i, k in enumerate(GRID)
        if k != FAILED  # it reported nothing, so it has no row
    ]
    return [head, *rows]


def wandb_table():
    head = '"Name","State","Notes","User","Tags","Created","Runtime","Sweep","lr","seed","width","epoch","val_acc","val_loss"'
    rows = [
        f'"sweep-{i}","{"crashed" if k == FAILED else "finished"}","-","ann","","2026-11-27T02:58:31.000Z","12{i}","abc",'
        f'"{k[0]}","{k[2]}","{k[1]}","9","{"NaN" if k == NAN else VALUES[k]}","0.{i}"'
        for i, k in enumerate(GRID)
    ]
    return [head, *rows]


def wandb_script():
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["", "summary", "config", "name"])
    for i, (lr, w, s) in enumerate(GRID):
        number = {} if (lr, w, s) == FAILED else {"val_acc": float("nan") if (lr, w, s) == NAN else VALUES[lr, w, s]}
        summary = {"_step": 9, "_wandb": {"runtime": 12}, **number}
        writer.writerow([i, summary, {"lr": lr, "seed": s, "net": {"width": w}, "optimizer": "adam"}, f"run-{i}"])
    return out.getvalue().splitlines()


def tensorboard():
    # TensorBoard's table of hyperparameters: these first, then the metrics, no name and no state of a run.
    return ["lr,seed,width,val_acc", *(f"{lr},{float(s)},{float(w)},{value((lr, w, s))}" for lr, w, s in GRID)]


WRITERS = {
    "optuna": optuna, "mlflow": mlflow, "ray": ray, "wandb": wandb_table, "wandb script": wandb_script,
    "tensorboard": tensorboard,
}  # fmt: skip


def written(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def analysis_of(results):
    return imported.Imported.of(results).parts[0][1]


def table_of(tmp_path, text, **wanted):
    return imports.load(written(tmp_path / "t.csv", text.split()), Wanted(**wanted))


def run(capsys, *argv):
    status = cli.launch(["launch.py", "report", *map(str, argv)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("tool", WRITERS)
def test_an_export_is_read_as_it_comes(tool, tmp_path):
    results = imports.load(written(tmp_path / "runs.csv", WRITERS[tool]()), Wanted())
    assert results.metric == ("value" if tool == "optuna" else "val_acc")
    assert not results.lower_is_better
    assert {name.split("/")[-1].split(".")[-1] for name in results.runs[0].levels} == {"lr", "width"}
    found = {(*sorted(r.levels.values()), r.seed): r.value for r in results.runs if r.status == "done"}
    assert found == {k: v for k, v in VALUES.items() if k not in (FAILED, NAN)}
    lost = sorted(r.status for r in results.runs if r.status != "done")
    # Optuna itself turns NaN into a failure; Ray Tune's failure has no row, which the numbers of its trials show.
    expected = {"optuna": ["failed", "failed"], "ray": ["diverged"]}
    assert lost == expected.get(tool, ["diverged", "failed"])
    assert ("1 trial is missing" in " ".join(results.notes)) == (tool == "ray")
    guessed = " ".join(results.said)
    assert all(name in guessed for name in ("Metric: ", "Seed: ", "Factors: ", "higher is better"))


def test_effects_are_those_that_were_put_in(tmp_path):
    results = imports.load(written(tmp_path / "runs.csv", mlflow()), Wanted())
    analysis = analysis_of(results)
    terms = {t.name: t for t in analysis.effects.terms}
    assert terms["width"].span.estimate.value == pytest.approx(0.02, abs=4e-4)
    assert terms["lr"].span.estimate.value == pytest.approx(-0.01, abs=4e-4)
    assert terms["width"].claimed
    assert terms["lr"].claimed
    assert not terms["width × lr"].claimed
    assert analysis.best.label == "width=64 lr=0.01"
    assert analysis.population == "new runs of the same cells"


def test_the_same_numbers_have_the_same_intervals_as_those_of_our_own_trials(tmp_path):
    """One implementation: t intervals with moderated variances, here against the formula for equal cells."""
    cells = {"a": (0.1, 0.2, 0.3), "b": (0.5, 0.6, 0.7)}
    lines = ["x,seed,score", *(f"{x},{s},{v}" for x, vs in cells.items() for s, v in enumerate(vs))]
    analysis = analysis_of(table_of(tmp_path, "\n".join(lines), metric="score"))
    e = analysis.effects.terms[0].span.estimate
    half = 2.776445 * np.sqrt(2 * 0.01 / 3)  # Student's t with 4 degrees of freedom
    assert (e.value, e.low, e.high) == pytest.approx((0.4, 0.4 - half, 0.4 + half), abs=1e-5)


def test_lower_is_better_turns_the_order_and_nothing_else(tmp_path):
    lines = ["x,seed,val_loss", *(f"{x},{s},{v + 0.01 * s}" for x, v in (("a", 3.0), ("b", 2.0), ("c", 2.5)) for s in range(4))]
    down = analysis_of(table_of(tmp_path, "\n".join(lines)))
    up = analysis_of(table_of(tmp_path, "\n".join(lines), lower_is_better=False))
    assert [c.label for c in down.cells] == ["x=b", "x=c", "x=a"]
    assert [c.label for c in up.cells] == ["x=a", "x=c", "x=b"]
    assert [round(c.difference.value, 6) for c in down.comparisons] == [0.5, 1.0]
    assert all(c.distinguishable and c.better == 1.0 for c in down.comparisons)
    assert [t.p for t in down.effects.terms] == [t.p for t in up.effects.terms]
    said = report.answer.headline(down)
    assert said.startswith("x b beats x a by 1.000 of val_loss (")
    assert "points" not in said
    assert "%" not in said


def test_an_interval_of_a_plain_number_is_not_cut_at_0_and_1(tmp_path):
    lines = ["x,seed,val_loss", *(f"{x},{s},{v}" for x in "ab" for s, v in enumerate((0.9, 1.1, 1.4)))]
    analysis = analysis_of(table_of(tmp_path, "\n".join(lines)))
    assert analysis.interval(analysis.best).high > 1.2
    accuracies = "\n".join(["x,seed,acc", *(f"{x},{s},{v}" for x in "ab" for s, v in enumerate((0.9, 0.97, 1.0)))])
    analysis = analysis_of(table_of(tmp_path, accuracies))
    assert analysis.interval(analysis.best).high == 1.0


def test_accuracies_in_percent_are_told_by_their_size(tmp_path):
    results = table_of(tmp_path, "x,seed,test_acc\na,0,98.1\na,1,98.3\nb,0,97.0\nb,1,97.4\n")
    assert [r.value for r in results.runs] == pytest.approx([0.981, 0.983, 0.97, 0.974])
    assert results.resolution == pytest.approx(0.001)
    assert any("read as percent" in sentence for sentence in results.said)


def test_random_search_without_seeds_has_no_interval_between_runs(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        "lr,dropout,accuracy",
        *(f"{rng.random():.6f},{rng.random():.6f},{0.9 + 0.01 * rng.random():.6f}" for _ in range(20)),
    ]
    results = table_of(tmp_path, "\n".join(lines))
    assert list(results.runs[0].levels) == ["lr", "dropout"]
    assert "no column looks like one" in " ".join(results.said)
    analysis = analysis_of(results)
    assert "add runs" in report.answer.headline(analysis)
    assert not analysis.interval(analysis.best).known


def test_rows_of_one_cell_without_a_seed_are_its_runs(tmp_path):
    results = table_of(tmp_path, "lr,accuracy\n0.1,0.90\n0.1,0.91\n0.2,0.95\n0.2,0.96\n")
    assert [r.seed for r in results.runs] == [0, 1, 0, 1]


def test_a_row_that_repeats_a_run_is_not_a_second_run(tmp_path):
    text = "lr,seed,accuracy\n0.1,0,0.90\n0.1,0,0.90\n0.1,1,0.92\n0.2,0,0.95\n0.2,1,0.96\n0.2,1,0.97\n"
    results = table_of(tmp_path, text)
    assert len(results.runs) == 5
    assert "1 row repeats the factors, seed and value" in results.notes[0]
    assert "1 run shares factors and seed with another run and differs" in results.notes[1]


def test_what_is_averaged_over_is_said(tmp_path):
    text = "params.lr,params.opt,params.seed,metrics.acc\n0.1,sgd,0,0.9\n0.1,adam,1,0.8\n0.2,sgd,0,0.7\n0.2,adam,1,0.6\n"
    results = table_of(tmp_path, text, factors=("lr",))
    assert "Averaged over: params.opt, which differ between runs but are not among --factors." in results.said


def test_pruned_and_running_trials_are_counted_apart(tmp_path):
    text = "number,value,params_x,state\n0,0.5,1,COMPLETE\n1,0.4,1,PRUNED\n2,,2,RUNNING\n3,0.6,2,COMPLETE\n4,0.1,2,odd\n"
    results = table_of(tmp_path, text)
    assert [r.status for r in results.runs] == ["done", "pruned", "running", "done", "failed"]
    assert [r.value for r in results.runs] == [0.5, None, None, 0.6, None]
    assert "Status odd: unknown, counted as failed." in results.said


def test_runs_of_unlike_lengths_are_said(tmp_path):
    text = "trial_id,training_iteration,accuracy,config/lr\na_00000,1,0.5,0.1\na_00001,9,0.6,0.2\n"
    assert "training_iteration is 1 to 9" in " ".join(table_of(tmp_path, text).notes)


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        ("lr,acc\n0.1,0.5\n", {"metric": "loss"}, "--metric: 'loss' is not a column of .*t.csv: must be one of lr, acc"),
        ("lr,acc\n0.1,0.5\n", {"factors": ("lr", "width")}, "--factors: 'width' is not a column .*must be one of lr, acc"),
        ("lr,acc\n0.1,0.5\n", {"seed": "s"}, "--seed: 's' is not a column .*must be one of lr, acc"),
        ("lr,acc\n0.1,0.5\n", {"factors": ("acc",)}, "--factors: acc is the metric"),
        ("lr,acc\n0.1,0.5\n", {"metric": "acc", "seed": "lr", "factors": ("lr",)}, "--factors: lr is the seed"),
        ("lr,acc\n0.1,high\n", {"metric": "acc"}, "--metric: column acc holds 'high', which is not a number"),
        ("lr,acc\n0.1,nan\n", {"metric": "acc"}, "--metric: column acc of .* has no numbers"),
        ("lr,width\n0.1,5\n", {}, "no column of .* looks like a result: name one of lr, width"),
        ("a/acc,b/acc\n0.1,0.5\n", {"metric": "acc"}, "'acc' may be any of a/acc, b/acc: name one of them in full"),
        ("lr,lr\n0.1,0.5\n", {}, "two columns are named 'lr'"),
        ("lr,acc\n0.1\n", {}, "row 2 has 1 cells, the first row names 2 columns"),
        ("lr,acc\n", {}, "has no rows"),
        ("lr,acc\n0.1,0.5\n", {"study": "s"}, "--study: .* is not an Optuna storage"),
    ],
)  # fmt: skip
def test_a_wrong_column_is_one_line_with_the_legal_ones(text, wanted, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        table_of(tmp_path, text, **wanted)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00bad", b"\x00" * 64, b""])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.db"])
def test_damaged_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError):
        imports.load(tmp_path / name, Wanted())


def test_separators_marks_and_an_index_do_not_matter(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes("\ufefflr;seed;accuracy\r\n0.1;0;0.5\r\n0.2;0;0.6\r\n".encode())
    assert [r.value for r in imports.load(path, Wanted()).runs] == [0.5, 0.6]


def test_the_command_writes_a_page_that_says_what_was_guessed(tmp_path, capsys):
    file = written(tmp_path / "runs.csv", mlflow())
    status, out, err = run(capsys, file, f"--out={tmp_path / 'out'}")
    assert (status, err) == (0, "")
    page = (tmp_path / "out/report.html").read_text()
    for sentence in (
        "Metric: metrics.val_acc (guessed",
        "Factors: params.width, params.lr (guessed",
        "Seed: params.seed (guessed",
    ):
        assert sentence in out
        assert sentence in page
    assert "1 trial failed" in out
    assert "1 trial diverged" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/results.csv").read_text())))
    assert [r["status"] for r in rows].count("done") == 10
    assert {"lr", "width", "seed", "val_acc"} <= set(rows[0])
    assert "multiply-accumulates" not in page  # nothing is said of what is not known
    assert "test accuracy" not in page


def test_the_command_line_names_what_is_wrong(tmp_path, capsys):
    file = written(tmp_path / "runs.csv", mlflow())
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/sweep.json").write_text("{}")
    for argv, message in (
        ((file, "--metric=nope"), "error: --metric: 'nope' is not a column of"),
        ((file, file), "error: report: takes one file of results at a time"),
        ((file, f"--out={tmp_path / 'sweep'}"), "holds a sweep: name another folder"),
        ((tmp_path / "missing.csv",), "No such file"),
        ((file, "--factors=,"), "error: --factors: names no column"),
        ((tmp_path / "sweep", "--metric=acc"), "error: --metric: only with a file of results"),
    ):
        status, out, err = run(capsys, *argv)
        assert (status, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "sweep/report.html").exists()


def test_names_from_the_file_are_escaped_in_the_page(tmp_path, capsys):
    lines = ["x,seed,acc<b>", *(f"<script>alert({x})</script>,{s},0.{x}{s}" for x in (1, 2) for s in (1, 2))]
    file = written(tmp_path / "runs.csv", lines)
    assert run(capsys, file, "--metric=acc<b>", f"--out={tmp_path / 'out'}")[0] == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>alert" not in page
    assert "acc<b>" not in page


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [(0.123456, 0.004, "0.1235"), (1234.5, 130.0, "1,234"), (3e-7, 2e-8, "3e−07"), (-2.5, 0.1, "−2.50")],
)
def test_a_plain_number_has_two_digits_of_its_spread(value, sd, text, tmp_path):
    lines = ["x,seed,score", *(f"{x},{s},{value + sd * d!r}" for x in "ab" for s, d in enumerate((-1.0, 0.0, 1.0)))]
    units = words.units(analysis_of(table_of(tmp_path, "\n".join(lines), metric="score")))
    assert units.value(value) == text
    assert units.points == ""


def test_a_terminal_of_40_columns_shows_whole_values(tmp_path):
    results = imports.load(written(tmp_path / "runs.csv", mlflow()), Wanted())
    console = Console(file=io.StringIO(), width=40)
    report.write_imported(results, tmp_path / "out", console)
    assert "92.00 %" in console.file.getvalue()


def test_no_effect_is_claimed_in_more_than_5_percent_of_files_without_any(tmp_path):
    """Skewed losses of unequal spread, four cells of three runs: the claims' level holds beside accuracies too."""
    rng, claims = np.random.default_rng(1), 0
    metric = stats.Metric("value", "loss", share=False, lower_is_better=True, of_images=False)
    for _ in range(300):
        groups = []
        for a, b in itertools.product((1, 2), (3, 4)):
            values = np.exp(0.3 * rng.normal(size=3))
            config = {"data": {"dataset": "d", "split_seed": 0}, "model": {"name": ""}}
            groups.append(
                ({"a": a, "b": b}, [{"trial": "", "status": "done", "value": float(v), "config": config | {"seed": s}}
                                    for s, v in enumerate(values)])
            )  # fmt: skip
        found = stats.analyse_numbers(stats.crossing(groups), metric, 0.0)
        claims += any(t.claimed for t in found.effects.terms) or any(c.distinguishable for c in found.comparisons)
    assert claims <= 300 * 0.05 + 2 * np.sqrt(300 * 0.05 * 0.95)


def test_nothing_of_a_folder_is_read_as_a_file(tmp_path):
    (tmp_path / "runs.csv").mkdir()
    assert not imports.is_table(Path(tmp_path / "runs.csv"))
