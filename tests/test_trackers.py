"""Files that Optuna, MLflow, Ray Tune and TensorBoard write themselves: `make test-trackers`, with requirements-trackers.txt.

W&B has no export without an account: its files are in test_imports.py by its documentation.
"""

import itertools
import json
import threading
import urllib.parse
import urllib.request

import pytest

from cnn_jax import imports
from cnn_jax.imports import Wanted

pytestmark = [pytest.mark.trackers, pytest.mark.filterwarnings("ignore")]
GRID = list(itertools.product((0.01, 0.1), (32, 64), (0, 1, 2)))
FAILED = (0.1, 32, 1)


def accuracy(lr, width, seed):
    return 0.9 + 0.02 * (width == 64) - 0.01 * (lr == 0.1) + 0.001 * (seed - 1)


def check(results, *, lost=("failed",)):
    found = {(run.levels["lr"], run.levels["width"], run.seed): run.value for run in results.runs if run.status == "done"}
    assert found == pytest.approx({key: accuracy(*key) for key in GRID if key != FAILED}, rel=1e-6)
    assert [run.status for run in results.runs if run.status != "done"] == list(lost)
    assert not results.lower_is_better


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    optuna = pytest.importorskip("optuna")
    path = tmp_path_factory.mktemp("optuna") / "study.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {"lr": [0.01, 0.1], "width": [32, 64], "seed": [0, 1, 2]}
    made = optuna.create_study(
        storage=f"sqlite:///{path}", study_name="grid", direction="maximize", sampler=optuna.samplers.GridSampler(space)
    )

    def objective(trial):
        key = trial.suggest_float("lr", 1e-3, 1), trial.suggest_int("width", 8, 128), trial.suggest_int("seed", 0, 9)
        if key == FAILED:
            raise RuntimeError("lost")
        return accuracy(*key)

    made.optimize(objective, n_trials=len(GRID), catch=(RuntimeError,))
    return path, made


def test_optuna_storage(study):
    before = study[0].read_bytes()
    check(imports.load(study[0], Wanted()))
    assert study[0].read_bytes() == before


def test_optuna_dataframe(study, tmp_path):
    frame = study[1].trials_dataframe()
    frame.to_csv(tmp_path / "trials.csv")
    frame.to_parquet(tmp_path / "trials.parquet")
    check(imports.load(tmp_path / "trials.csv", Wanted()))
    check(imports.load(tmp_path / "trials.parquet", Wanted()))


def test_optuna_storage_of_several_studies(study, tmp_path):
    import optuna

    address = f"sqlite:///{tmp_path / 'two.db'}"
    for name, direction in (("a", "minimize"), ("b", "maximize")):
        one = optuna.create_study(storage=address, study_name=name, direction=direction)
        one.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    with pytest.raises(imports.tables.UsageError, match=r"--study: .* has several: must be one of a, b"):
        imports.load(tmp_path / "two.db", Wanted())
    assert imports.load(tmp_path / "two.db", Wanted(study="a")).lower_is_better
    assert not imports.load(tmp_path / "two.db", Wanted(study="b")).lower_is_better


def test_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("pandas")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    mlflow.set_experiment("grid")
    for key in GRID:
        with mlflow.start_run() as run:
            mlflow.log_params(dict(zip(("lr", "width", "seed"), key, strict=True)) | {"optimizer": "adam"})
            if key != FAILED:
                mlflow.log_metrics({"val_acc": accuracy(*key), "loss": 1.0})
        if key == FAILED:
            mlflow.MlflowClient().set_terminated(run.info.run_id, "FAILED")
    mlflow.search_runs().to_csv(tmp_path / "runs.csv", index=False)
    results = imports.load(tmp_path / "runs.csv", Wanted())
    check(results)
    assert results.fixed == {"optimizer": "adam"}


def test_ray_tune(tmp_path):
    ray = pytest.importorskip("ray")
    from ray import tune

    def train(config):
        key = config["lr"], config["width"], config["seed"]
        if key == FAILED:
            raise RuntimeError("lost")
        return {"accuracy": 0.9 + 0.02 * (key[1] == 64) - 0.01 * (key[0] == 0.1) + 0.001 * (key[2] - 1)}

    space = {"lr": tune.grid_search([0.01, 0.1]), "width": tune.grid_search([32, 64]), "seed": tune.grid_search([0, 1, 2])}
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        run = tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0)
        tune.Tuner(train, param_space=space, run_config=run).fit().get_dataframe().to_csv(tmp_path / "ray.csv")
    finally:
        ray.shutdown()
    results = imports.load(tmp_path / "ray.csv", Wanted())
    check(results, lost=())
    assert "1 trial is missing" in results.notes[0]


def test_tensorboard(tmp_path):
    """The file that the button under the table of hyperparameters downloads, from the server that serves it."""
    pytest.importorskip("tensorboard")
    from tensorboard import default, program
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.plugins.hparams import summary_v2 as hparams
    from tensorboard.summary.writer import event_file_writer

    for i, key in enumerate(GRID):
        writer = event_file_writer.EventFileWriter(str(tmp_path / "logs" / f"run{i}"))
        start = hparams.hparams_pb(
            dict(zip(("lr", "width", "seed"), key, strict=True)), trial_id=f"trial{i}", start_time_secs=1.0 + i
        )
        parts = [start]
        if key != FAILED:
            value = summary_pb2.Summary.Value(tag="accuracy", simple_value=accuracy(*key))
            parts.append(summary_pb2.Summary(value=[value]))
        for part in parts:
            writer.add_event(event_pb2.Event(summary=part, wall_time=1.0 + i, step=0))
        writer.close()
    board = program.TensorBoard(default.get_plugins())
    board.configure(argv=[None, "--logdir", str(tmp_path / "logs"), "--port", "0", "--load_fast", "false"])
    server = board._make_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = server.get_url().rstrip("/") + "/data/plugin/hparams/"

    def get(path, **query):
        address = f"{base}{path}?{urllib.parse.urlencode(query)}"
        return urllib.request.urlopen(address, timeout=60).read().decode()

    request = json.dumps({"experimentName": "", "colParams": [], "sliceSize": 1000, "allowedStatuses": [
        "STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]})  # fmt: skip
    wanted = "lr"
    for _ in range(30):  # the server reads the logs in the background
        text = get("download_data", format="csv", columnsVisibility=json.dumps([True] * 4), request=request)
        if wanted in text and "accuracy" in text and text.count("\n") > len(GRID):
            break
        threading.Event().wait(1)
    server.server_close()
    (tmp_path / "hparams.csv").write_text(text)
    check(imports.load(tmp_path / "hparams.csv", Wanted()))
