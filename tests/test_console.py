"""What is printed, at any width, into a pipe and in any encoding: rows C1, C2 and C6 of the reported faults."""

import io
import re

import pytest
import synthetic

from cnn_jax import report
from cnn_jax.console import UNLIMITED, Column, Console, Row, print_table
from cnn_jax.execution.progress import Activity, Progress, about
from cnn_jax.sweep import plan
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial


class Terminal(io.TextIOWrapper):
    """A terminal of an encoding."""

    def __init__(self, encoding="utf-8", tty=True):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.tty = tty

    def isatty(self):
        return self.tty

    def text(self):
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.buffer.getvalue().decode(self.encoding))
        return "\n".join(line.rstrip() for line in shown.splitlines())


def console_of(width, encoding="utf-8"):
    """A console of a terminal so wide; of a pipe if `width` is None."""
    stream = Terminal(encoding, tty=width is not None)
    return Console(stream, width), stream


def five_factors(shift=0.0, name="digits"):
    out = []
    for i, (f, k, p, a, lr, seed) in enumerate(
        (f, k, p, a, lr, seed) for f in (8, 16) for k in (3, 5) for p in ("valid", "same") for a in ("relu", "gelu")
        for lr in (1e-3, 3e-3) for seed in range(2)
    ):  # fmt: skip
        model = ModelConfig("cnn", (f,), (k,), (1,), p, a)
        trial = Trial(model, DataConfig(name), TrainConfig(epochs=10, learning_rate=lr), seed)
        out.append(synthetic.record(trial, 0.9 + i / 1000 + shift))
    return out


WIDTHS = [40, 80, 200, None]
ENCODINGS = ["utf-8", "ascii", "latin-1"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("width", WIDTHS)
def test_c1_accuracies_are_whole_at_every_width_and_in_every_encoding(tmp_path, width, encoding):
    console, stream = console_of(width, encoding)
    records = five_factors()
    report.terminal([synthetic.folder(tmp_path, records)], console)
    text = stream.text()
    assert "…" not in text
    assert "..." not in text
    means = sorted(((a["val_accuracy"] + b["val_accuracy"]) / 2 for a, b in zip(records[::2], records[1::2], strict=True)))
    for mean in means[-14:]:  # of a screen
        assert f"{100 * mean:.2f} %" in text
    assert all(len(line) <= (width or UNLIMITED) for line in text.splitlines())
    for factor in ("filters", "kernel_size", "padding", "activation", "learning_rate"):
        assert factor in text.split("more in results.csv")[0]
    if width in (200, None):
        assert re.search(r"sd +n +params +train s\n", text)
    elif width == 80:
        assert "not shown in 80 columns: sd, n, params, train s" in text


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("width", WIDTHS)
def test_c1_a_comparison_is_whole_too(tmp_path, width, encoding):
    console, stream = console_of(width, encoding)
    a, b = synthetic.folder(tmp_path / "a", five_factors()), synthetic.folder(tmp_path / "b", five_factors(-0.02))
    report.compare(a, b, console)
    text = stream.text()
    minus = "\N{MINUS SIGN}" if encoding == "utf-8" else "-"
    assert len(re.findall(rf"9\d\.\d\d %\s+(?:B )?8?9?\d\.\d\d %\s+(?:B - A )?{minus}2\.00", text)) == 32
    assert all(len(line) <= (width or UNLIMITED) for line in text.splitlines())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("width", WIDTHS)
def test_c1_a_plan_is_whole_too(width, encoding):
    trials = [
        Trial(ModelConfig("cnn", (f,), (3,), (1,), p, a), train=TrainConfig(epochs=e))
        for f in (8, 16) for p in ("valid", "same") for a in ("relu", "gelu") for e in (1, 2)
    ]  # fmt: skip
    console, stream = console_of(width, encoding)
    plan.show(plan.preflight(trials), console, "runs/[v1] [/b]")
    text = stream.text()
    assert text.count("1,370") == 4
    assert "results go to runs/[v1] [/b]" in " ".join(text.split())
    assert "16 trials in 16 cells" in " ".join(text.split())


@pytest.mark.parametrize(
    "name", ["npz:[v1].npz", "npz:[/b].npz", "npz::smile:.npz", "npz:[bold red]x[/].npz", "npz:\x1b[31m.npz"]
)
def test_c2_text_of_the_user_is_not_markup(tmp_path, name):
    records = five_factors(name=name) + five_factors()
    records[0] |= {"status": "failed", "reason": name}
    a, b = synthetic.folder(tmp_path / "a", records), synthetic.folder(tmp_path / "b", records)
    console, stream = console_of(None)
    report.terminal([a], console)
    report.compare(a, b, console)
    plan.show(plan.preflight([Trial()]), console, name)
    progress = Progress(console, lambda trial: 1, lambda trial: 1.0)
    with progress.running([Trial()]):
        progress.note(name)
        progress.finished(Trial().id, "failed", name)
    shown = name.replace("\x1b", "\\x1b")
    text = stream.text()
    for line in (f"results go to {shown}", f"note: {shown}", f"failed: {Trial().id}: {shown}"):
        assert line in text.splitlines()
    assert shown in text.splitlines() or "\x1b" in name  # the heading of a data set; records hold no control characters
    assert "\x1b" not in stream.buffer.getvalue().decode()


def test_c6_what_an_encoding_lacks_is_replaced():
    for encoding, shown in (("ascii", r"+-1 | -2 x 3 - \xe9"), ("latin-1", "±1 · -2 × 3 - é"), ("utf-8", "±1 · −2 × 3 – é")):
        console, stream = console_of(None, encoding)
        console.print("±1 · −2 × 3 – é")
        print_table(console, [Column("±1 · −2 × 3 – é")], [Row(["±1 · −2 × 3 – é"])])
        assert stream.text().split("\n") == [shown] * 3
    console.print("\udcff")
    assert stream.text().endswith(r"\udcff")


def test_c9_a_cell_that_failed_has_no_parameters(tmp_path):
    records = five_factors()
    lost = dict.fromkeys(("val_accuracy", "test_accuracy", "test_loss", "test_correct", "params", "macs", "train_seconds"))
    for r in records[2:]:
        r |= lost | {"status": "failed", "reason": "out of memory"}
    console, stream = console_of(None)
    report.terminal([synthetic.folder(tmp_path, records)], console)
    table = [line for line in stream.text().splitlines() if line.startswith(("8 ", "16 "))]
    assert len([line for line in table if re.search(r" 0 \(-2\)$", line)]) == len(table) - 1
    assert report.write_results(tmp_path).read_text().count(",failed,") == len(records) - 2
    page = report.write(tmp_path).read_text()
    assert not re.search(r">0</td>(<td[^>]*>–</td>)", page.split('id="cells"')[1].split("</section>")[0])


# --------------------------------------------------------------------------------------------------------------- progress


TRIALS = [Trial(ModelConfig(filters=(f,)), seed=s) for f in (8, 16) for s in range(2)]


def progress_of(console):
    return Progress(console, lambda trial: 1000, lambda trial: float(trial.model.filters[0]))


def lines_of(monkeypatch, width):
    monkeypatch.setattr(Progress, "PLAIN_SECONDS", -1e9)  # every time; in a sweep, now and then
    monkeypatch.setattr("time.monotonic", iter(range(10**9)).__next__)
    console, stream = console_of(width)
    progress = progress_of(console)
    with progress.running(TRIALS):
        progress.tick(Activity(starting=2))
        progress.tick(Activity(compiling=2, parallel=2))
        progress.compiled(TRIALS[2], 3.0)
        progress.trained([TRIALS[2]], 500, 30.0)
        progress.tick(Activity(compiling=1, parallel=2))
        for trial in TRIALS:
            progress.finished(trial.id, "done", None)
        progress.tick(Activity(parallel=1))
    return stream


def test_c8_progress_says_what_is_compiled_and_what_is_left_in_plain_lines(monkeypatch):
    lines = [re.sub(r"[\d,]+ images/s", "N images/s", line) for line in lines_of(monkeypatch, None).text().splitlines()]
    # 0.06 s an image of 16 filters, half as long one of 8: 90 + 60 s, and 3 s to compile the other program, by two workers.
    assert lines == [
        "0/4 trials · starting workers",
        "0/4 trials · compiling 2 programs",
        "0/4 trials · N images/s · compiling 1 program · 1 min left",
        "4/4 trials · N images/s · a few seconds left",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_c8_the_live_line_is_whole_at_every_width(monkeypatch, width):
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console, stream = console_of(width)
    progress = progress_of(console)
    with progress.running(TRIALS):
        progress.trained([TRIALS[2]], 500, 3000.0)
        progress.tick(Activity(compiling=1, parallel=1))
        progress.live.refresh()
    line = next(line for line in reversed(stream.text().replace("\r", "\n").splitlines()) if "left" in line)
    assert "…" not in line
    assert line.startswith("0/4 trials ")
    assert ("4 h 10 min left 0:00:0" if width > 40 else "4 h 10 min left") in line
    assert ("compiling 1 program · " in line) == (width > 40)
    assert ("images/s" in line) == (width > 40)


def test_c8_a_notebook_gets_plain_lines_too(monkeypatch):
    """Jupyter and Colab run `!command` in a pseudoterminal whose output is shown as a log."""
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    lines = lines_of(monkeypatch, 80).text().splitlines()
    assert len(lines) == 4
    assert lines[0] == "0/4 trials · starting workers"


def test_c8_a_second_batch_of_trials_is_counted_from_zero():
    """As --resolve runs them."""
    progress = progress_of(console_of(None)[0])
    for _ in range(2):
        with progress.running(TRIALS):
            for trial in TRIALS:
                progress.finished(trial.id, "done", None)
            assert progress._texts(Activity(), 0.0)[0] == "4/4 trials"


def test_c8_times_are_as_exact_as_a_forecast():
    times = {2: "a few seconds", 14: "15 s", 59: "1 min", 200: "3 min", 2924: "49 min", 7900: "2 h 10 min", 90000: "25 h 0 min"}
    assert {seconds: about(seconds) for seconds in times} == times
