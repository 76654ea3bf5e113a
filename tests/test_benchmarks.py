"""The benchmark: each peer trains where its package is installed, and the harness's arithmetic."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_images import images

from benchmarks import contenders, one_program, sweep, timing
from benchmarks.gpu import __main__ as gpu_main
from benchmarks.gpu import driver, races, roofline
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.report import Report
from benchmarks.gpu.settings import Ceilings, Request, Settings
from benchmarks.models import vgg3
from cnn_jax import data, describe
from cnn_jax.trial import DataConfig


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """300 training and 100 test images of 12x12 that a small network learns in an epoch or two."""
    rng = np.random.default_rng(3)
    (x, y), (u, v) = images(rng, 300, 12), images(rng, 100, 12)
    path = tmp_path_factory.mktemp("bench") / "small.npz"
    np.savez(path, x_train=x, y_train=y, x_test=u, y_test=v)
    return path


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("pytorch", {}),
        ("pytorch", {"per_core": True, "autocast": True}),
        pytest.param("keras", {}, marks=pytest.mark.slow),
        pytest.param("flax", {}, marks=pytest.mark.slow),
    ],
)
def test_a_peer_trains_every_trial_of_the_sweep(name, how, file):
    if contenders.interpreter(name) is None:
        pytest.skip(f"{contenders.PEERS[name]} is not installed")
    axes = {"filters": "16", "kernel_size": "3", "padding": "same,valid"}
    settings = {"seeds": 1, "epochs": 10, "batch_size": 16, "validation": 60}
    run = timing.time_run(contenders.peer(name, file, axes | settings | how, contenders.CPU))
    assert len(run.test_accuracy) == 2
    assert min(run.test_accuracy) > 0.9  # three classes: by chance 0.33
    assert 0 < run.compile_seconds + run.train_seconds < run.seconds * (64 if how else 1)  # those of processes add up
    assert run.memory is None or 50e6 < run.memory < 5e9


@pytest.mark.parametrize("net", ["lenet5", "vgg", "resnet20"])
def test_pytorch_has_our_networks(net, file):
    """As many parameters as ours have: the same network, but for initial values."""
    python = contenders.interpreter("pytorch")
    if python is None:
        pytest.skip("torch is not installed")
    size = 28 if net == "lenet5" else 32
    code = f"""
import sys; sys.path.insert(0, {str(contenders.ROOT / "benchmarks" / "peers")!r})
import torch, pytorch_loop
net = pytorch_loop.{net}(3, 10{", 28" if net == "lenet5" else ""})
net(torch.zeros(2, 3, {size}, {size}))
print(sum(p.numel() for p in net.parameters()))"""
    count = int(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    model = vgg3((32, 32, 3), 10) if net == "vgg" else contenders.NETS[net].model
    assert count == describe(model, (size, size, 3), 10).params


def test_ours_starts_without_a_program_but_with_images(file, tmp_path):
    config = DataConfig(f"npz:{file}", validation_fraction=0.2)
    exported = contenders.export(config, tmp_path / "prepared", tmp_path / "images.npz")
    contender = contenders.ours(tmp_path, {}, {})
    (tmp_path / "cache" / "xla").mkdir(parents=True)
    contender.ready()
    assert not (tmp_path / "cache" / "xla").exists()
    loaded = data.load(config, cache_dir=contender.environment["CNN_JAX_CACHE"])
    assert loaded.checksum == exported.checksum
    found = np.load(tmp_path / "images.npz")
    np.testing.assert_array_equal(found["x_train"][-60:], loaded.validation_images)
    np.testing.assert_array_equal(found["y_train"][:240], loaded.train_labels)
    np.testing.assert_array_equal(found["x_test"], loaded.test_images)


def test_training_flops_of_the_chapters_net():
    """Convolution 26 * 26 * 9 * 32 MACs: forward and kernel gradient; dense 5,408 * 10: forward and both gradients."""
    shape = describe("chapter", (28, 28, 1), 10)
    assert contenders.training_flops(shape) == 2 * (2 * 26 * 26 * 9 * 32 + 3 * 13 * 13 * 32 * 10)


def test_models_of_a_sweep():
    chapter = contenders.NETS["chapter"]
    assert len(contenders.models(chapter, chapter.axes, chapter.seeds)) == 36
    assert {m.filters for m in contenders.models(contenders.NETS["resnet20"], {}, 1)} == {(16, 32, 64)}


def test_ratios_are_taken_within_a_round():
    """A machine that is twice as slow in the second round changes no ratio; that of the sums would be 12 / 4."""

    def runs(*seconds):
        return [timing.Run(0.5, 1.0, (0.9, 0.8), seconds=s, memory=2_000_000) for s in seconds]

    text = sweep.table({"ours": runs(1, 1, 2), "peer": runs(2, 2, 8)}, images=100, flops=10.0, limit=20.0)
    header, _, ours, peer = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    first, second = dict(zip(header, ours, strict=True)), dict(zip(header, peer, strict=True))
    assert (first["time / ours"], second["time / ours"]) == ("1.00", "2.00")
    assert (first["images/s"], second["images/s"]) == ("100", "50")
    assert (first["of the limit"], second["of the limit"]) == ("50.0%", "25.0%")
    assert (second["trials"], second["test accuracy"], second["sd"], second["memory MB"]) == ("2", "0.8500", "0.0707", "2")
    assert len({len(line) for line in text.splitlines()}) == 1


def test_turns_alternate(monkeypatch):
    seen = []
    monkeypatch.setattr(
        sweep, "time_run", lambda c: seen.append(c.name) or timing.Run(0.0, 0.0, (1.0,), seconds=1.0, memory=None)
    )
    both = [contenders.Contender(name, [], {}, lambda _: contenders.Found(0.0, 0.0, ())) for name in "AB"]
    assert {name: len(runs) for name, runs in sweep.compare(both, 2).items()} == {"A": 2, "B": 2}
    assert seen == ["A", "B", "A", "B"]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc")
def test_peak_memory_counts_children_that_came_and_went():
    child = "import time; held = b'x' * 300_000_000; time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    with timing.peak_memory(process.pid, interval=0.1) as samples:
        process.wait()
    assert 300e6 < max(samples) < 400e6


def test_failures_are_told(tmp_path):
    contender = contenders.Contender("broken", [sys.executable, "-c", "import sys; sys.exit('out of ideas')"], {}, json.loads)
    with pytest.raises(RuntimeError, match="broken failed with status 1: out of ideas"):
        timing.time_run(contender)
    with pytest.raises(SystemExit, match="error: --filters: not for --net=vgg"):
        sweep.main(["--net=vgg", "--filters=8"])
    with pytest.raises(SystemExit, match="error: --dataset=npz:"):
        sweep.main([f"--dataset=npz:{tmp_path}/missing.npz"])


@pytest.mark.slow
def test_the_whole_race(file, tmp_path, capsys):
    arguments = [
        "--filters=4",
        "--kernel_size=3",
        "--padding=valid",
        "--seeds=2",
        "--peers=flax",
        f"--json={tmp_path}/all.json",
    ]
    sweep.main([f"--dataset=npz:{file}", *arguments])
    assert "| ours " in capsys.readouterr().out
    found = json.loads((tmp_path / "all.json").read_text())
    assert {name: len(runs[0]["test_accuracy"]) for name, runs in found["runs"].items()} == {"ours": 2, "flax": 2}
    assert found["limit"] > 1e8


@pytest.mark.parametrize("lanes", [False, True])
def test_one_program_for_all_cells_trains_each_as_its_own_does(lanes, monkeypatch):
    monkeypatch.setattr(one_program, "CELLS", [one_program.Cell(8, 3, "valid"), one_program.Cell(16, 5, "same")])
    monkeypatch.setattr(one_program, "TURNS", 1)
    own, one = one_program.both_ways(512, 2, lanes=lanes)
    for mine, shared in zip(own, one, strict=True):
        np.testing.assert_allclose(shared.losses, mine.losses, rtol=1e-5)
    assert abs(own[0].losses[0] / own[1].losses[0] - 1) > 1e-4  # the cells are not one another


# ------------------------------------------------------------------------------------------------------- benchmarks.gpu


COLUMNS = ("what", "precision", "lanes", "images_per_second", "tflops", "gigabytes", "roofline", "note")


def gpu_part(name: str, function: str, weight: float = 1.0) -> Part:
    return Part(name, name.title(), COLUMNS, f"gpu_parts:{function}", weight=weight)


@pytest.fixture
def run_parts(tmp_path, monkeypatch):
    """Runs parts of gpu_parts.py; returns the report, which wrote results.json."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def run(*parts: Part, budget: float = 500.0, settings: Settings = Settings()) -> Report:  # noqa: B008 (frozen)
        found = Report(tmp_path / "new" / "results.json", {"device": "played"})
        driver.run(parts, settings, found, budget)
        return found

    return run


def test_gpu_refuses_to_run_without_a_gpu(tmp_path):
    """In a line, with status 2, and nothing is written."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(contenders.ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: JAX finds no GPU here (cpu)")
    assert not list(tmp_path.iterdir())


def test_gpu_part_that_fails_does_not_lose_the_others(run_parts):
    found = run_parts(gpu_part("one", "fails"), gpu_part("two", "dies"), gpu_part("three", "good"))
    told = [(row["part"], row["what"], row["status"], row["note"]) for row in found.rows]
    assert told == [
        ("one", "before", "measured", ""),
        ("one", "one", "failed", "RuntimeError: out of ideas"),
        ("two", "two", "failed", "ended with status -9"),
        ("three", "good", "measured", ""),
        ("three", "memory", "measured", ""),
        ("three", "none", "skipped", "needs | a GPU"),
    ]
    assert found.lost
    assert json.loads(found.path.read_text())["rows"] == found.rows


def test_gpu_table_and_file_hold_the_same(run_parts, capsys):
    """Each row of the file is a line of the table of its part, in order, and a skipped row alone is no loss."""
    found = run_parts(gpu_part("one", "good"))
    assert not found.lost
    printed = capsys.readouterr().out
    assert "what a library prints" not in printed
    title, header, _, *lines = [line for line in printed.splitlines() if line]
    assert title == "## One"
    titles = [cell.strip() for cell in header.split("|")[1:-1]]
    assert titles == ["", "precision", "lanes", "images/s", "TFLOP/s", "GB/s", "of roofline", "note"]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells == [
        ["good", "TF32", "", "12,346", "2.5", "", "", ""],
        ["memory", "", "", "", "", "3", "50.0%", ""],
        ["none", "", "", "", "", "", "", "skipped: needs / a GPU"],
    ]
    written = json.loads(found.path.read_text())
    assert written["device"] == "played"
    numbers = [[row[name] for name in COLUMNS[1:-1]] for row in written["rows"]]
    assert numbers == [["TF32", None, 12_345.6, 2.5, None, None], [None, None, None, None, 3.0, 0.5], [None] * 6]
    assert [list(found.path.parent.iterdir()), [row["part"] for row in written["rows"]]] == [[found.path], ["one"] * 3]


def test_gpu_ceilings_are_told_to_later_parts(run_parts):
    found = run_parts(gpu_part("ceilings", "good"), gpu_part("two", "ceilings_of_the_request"), settings=Settings(tf32=False))
    assert [(row["tflops"], row["gigabytes"]) for row in found.rows if row["part"] == "two"] == [(2.5, 3.0)]


def test_gpu_budget_that_is_used_up_leaves_rows_that_say_so(run_parts):
    found = run_parts(gpu_part("one", "good"), gpu_part("two", "good"), budget=1.0)
    assert [(row["part"], row["status"]) for row in found.rows] == [("one", "no time"), ("two", "no time")]
    assert {row["note"] for row in found.rows} == {"the budget of 1 s is used up; --parts runs parts alone"}
    assert found.lost


@pytest.mark.slow
def test_gpu_part_that_hangs_is_stopped_when_its_share_is_used_up(run_parts):
    """A quarter of the budget is its share; the other part has the rest."""
    began = time.monotonic()
    found = run_parts(gpu_part("one", "hangs"), gpu_part("two", "good", weight=3.0), budget=60.0)
    assert [(row["part"], row["what"], row["status"]) for row in found.rows[:3]] == [
        ("one", "before", "measured"),
        ("one", "one", "no time"),
        ("two", "good", "measured"),
    ]
    assert found.rows[1]["note"] == "stopped after 15 s, its share of the budget"
    assert 15 < time.monotonic() - began < 45


def test_gpu_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit) as error:
        gpu_main.main(["--parts=ceilings,speed"])
    assert error.value.code == 2
    assert "--parts=speed: must be of ceilings, pytorch_ceilings, chapter" in capsys.readouterr().err


def test_gpu_roofline_is_the_slower_of_products_and_bytes():
    known = Ceilings({"TF32": 100.0}, bandwidth=10.0)
    assert roofline.share(4.0, 200.0, "TF32", None, known) == 0.5
    assert roofline.share(4.0, 200.0, "TF32", 30.0, known) == 0.75
    assert roofline.share(4.0, 200.0, "TF32", 30.0, Ceilings({"TF32": 100.0})) == 0.5
    assert roofline.share(4.0, 200.0, "bfloat16", 30.0, known) is None


def test_gpu_row_of_a_race():
    """Two trials of two epochs of 200 images, so two steps an epoch: eight steps. The chapter's net, see above."""
    info = data.DatasetInfo("random", (28, 28, 1), 10, 200, 100, (), 0)
    run = timing.Run(1.0, 4.0, (0.25, 0.75), device_memory=3_000_000, products="TF32", seconds=10.0, memory=None)
    flops = 2 * (2 * 26 * 26 * 9 * 32 + 3 * 13 * 13 * 32 * 10) * 800
    request = Request(Settings(), Ceilings({"TF32": flops / 2}), "", 0.0)
    row = races.row_of(request, "peer", races.Race("chapter", races.ONE_CELL, 2, 2, epochs=2), info, run)
    assert (row.trials, row.epochs, row.accuracy, row.device_megabytes, row.precision) == (2, 2, 0.5, 3.0, "TF32")
    assert (row.images_per_second, row.trial_microseconds) == (80.0, 500_000.0)
    assert row.tflops == pytest.approx(flops / 4 / 1e12)
    assert row.roofline == pytest.approx(0.5)


def test_gpu_peers_are_told_the_same(tmp_path):
    """Everyone has the same setting of TF32, images and sweep; a warm run keeps what the cold one compiled."""
    config, info = DataConfig("digits"), data.DatasetInfo("digits", (8, 8, 1), 10, 200, 100, (), 20)
    race = races.Race("chapter", races.ONE_CELL, 256, 8)
    for tf32 in (True, False):
        request = Request(Settings(tf32=tf32), Ceilings(), str(tmp_path), 0.0)
        flags = {name: races.flags_of(request, name, race, config, info) for name in ("ours", *races.LOOPS)}
        told = {name: set(contenders.flags(values)) for name, values in flags.items()}
        assert {name: "--tf32" in words for name, words in told.items() if "PyTorch" in name} == dict.fromkeys(
            ("PyTorch, CUDA graph", "PyTorch, eager", "PyTorch, torch.compile"), tf32
        )
        assert all(
            {"--filters=32", "--kernel_size=3", "--padding=valid", "--batch_size=128"} < words for words in told.values()
        )
        assert {name: "--device=cuda" in words for name, words in told.items()} == {name: "PyTorch" in name for name in told}
        assert "--seeds=256" in told["ours"]
        assert {"--seeds=8", "--graph", "--validation=20"} < told["PyTorch, CUDA graph"]


def test_a_contender_is_stopped_in_time():
    contender = contenders.Contender("slow", [sys.executable, "-c", "import time; time.sleep(600)"], {}, json.loads)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="slow was stopped after 1 s"):
        timing.time_run(contender, 1.0)
    assert time.monotonic() - began < 15


def test_gpu_contender_may_take_half_of_what_is_left_or_more():
    assert [races.limit_of(100.0, following) for following in (0, 1, 9)] == [100.0, 92.0, 50.0]


def test_gpu_races_leave_the_gpu_to_the_contenders():
    """JAX takes most of a GPU's memory when it starts: the process that starts contenders does without it."""
    code = """
import sys
from benchmarks.contenders import NETS, models, training_flops
from benchmarks.gpu import driver, races
from cnn_jax import describe
training_flops(describe(*models(NETS["resnet20"], {}, 1), (32, 32, 3), 10))
print({"jax", "torch"} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=contenders.ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_trials_that_trained_side_by_side_share_their_seconds(tmp_path, monkeypatch):
    """Two programs, of two trials and of one."""
    rows = [{"compile_seconds": c, "train_seconds": t, "test_accuracy": 0.5} for c, t in ((3.0, 7.0), (0.0, 7.0), (2.0, 1.0))]
    monkeypatch.setattr(contenders.store, "read", lambda _: [row | {"precision": "float32"} for row in rows])
    found = contenders.ours(tmp_path, {}, {}).read("")
    assert (found.compile_seconds, found.train_seconds, len(found.test_accuracy)) == (5.0, 8.0, 3)


def test_flax_peer_has_resnet20(monkeypatch):
    monkeypatch.syspath_prepend(str(contenders.ROOT / "benchmarks" / "peers"))
    import flax_loop
    import jax

    init = functools.partial(flax_loop.ResNet20(10).init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == describe("resnet20", (32, 32, 3), 10).params


def test_cuda_graph_of_the_pytorch_peer_trains_as_its_eager_loop(tmp_path):
    """Capturing leaves no trace in what is trained: the same values to the bit, over two seeds that share a network.

    CUDA is played: a graph's replay calls the step.
    """
    python = contenders.interpreter("pytorch")
    if python is None:
        pytest.skip("torch is not installed")
    code = f"""
import contextlib, sys; sys.path.insert(0, {str(contenders.ROOT / "benchmarks" / "peers")!r})
import torch, pytorch_loop as peer

class Stream:
    def wait_stream(self, other): pass

class Graph:
    def replay(self): steps["graph"].eager(steps["graph"].rows_B)

torch.cuda.Stream = torch.cuda.current_stream = Stream
torch.cuda.stream = torch.cuda.graph = lambda _: contextlib.nullcontext()
torch.cuda.CUDAGraph = Graph
torch.manual_seed(0)
x, y, steps, found = torch.rand(40, 12, 12, 3), torch.randint(0, 3, (40,)), {{}}, []
for name in ("eager", "graph"):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(400, 3))
    adam = torch.optim.Adam(net.parameters(), lr=1e-2, fused=True)
    step = steps[name] = peer.Eager(net, adam, x, y, 16)
    if name == "graph":
        step = steps[name] = peer.Graph(step)
    for seed in (1, 2):
        torch.manual_seed(seed)
        peer.initialize(net, True), peer.forget(adam), net.train()
        for rows in torch.randperm(40).split(16):
            step(rows)
        found.append([value.clone() for value in net.state_dict().values()])
print(*(all(map(torch.equal, found[i], found[j])) for i, j in ((0, 2), (1, 3), (0, 1))))"""
    assert subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split() == [
        "True", "True", "False",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed beside JAX")
def test_gpu_smoke(tmp_path):
    """Every part measures something on CPU, except what a CPU has not: CUDA graphs."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--budget=1500", f"--json={tmp_path}/all.json"]
    done = subprocess.run(command, cwd=contenders.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    measured = {row["part"] for row in rows if row["status"] == "measured"}
    assert measured == {part.name for part in PARTS} - {"deep_lanes_bfloat16", "deep_lanes_plain_convolutions"}
    assert {row["status"] for row in rows} == {"measured", "skipped"}
    assert len([line for line in done.stdout.splitlines() if line.startswith("| ") and "precision" not in line]) == len(rows)
