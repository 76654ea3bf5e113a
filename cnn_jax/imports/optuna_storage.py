"""Trials of a study in an Optuna storage, read with Optuna."""

import sqlite3
from pathlib import Path

from cnn_jax.errors import UsageError
from cnn_jax.imports import tables


def rows(path: Path, name: str | None) -> tuple[list[list[str]], bool]:
    """Return the trials as a table with the column names of `trials_dataframe`, and whether the study minimizes.

    The file is opened read-only: Optuna neither upgrades nor locks it.

    Args:
        path: An SQLite file.
        name: Name of the study; None if the file has only one.

    Raises:
        UsageError: Optuna is not installed, the file is not an Optuna storage, or the study is missing or has several
          objectives.
    """
    try:
        import optuna
    except ImportError:
        raise UsageError(
            f"{path}: reading an Optuna storage needs optuna: pip install -r requirements-imports.txt, or write "
            "study.trials_dataframe() as a CSV file"
        ) from None
    _check_sqlite(path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///file:{path.resolve()}?mode=ro&uri=true", skip_table_creation=True)
        known = [summary.study_name for summary in optuna.study.get_all_study_summaries(storage)]
    except Exception as error:  # of SQLAlchemy or Optuna, whose classes depend on their versions
        raise UsageError(f"{path}: Optuna cannot read it: {str(error).splitlines()[0]}") from None
    if not known:
        raise UsageError(f"{path}: the Optuna storage has no study")
    if name is None and len(known) > 1:
        raise UsageError(f"--study: {path} has several: must be one of {', '.join(known)}")
    if name is not None and name not in known:
        raise UsageError(f"--study: {name!r} is not in {path}: must be one of {', '.join(known)}")
    study = optuna.load_study(study_name=name or known[0], storage=storage)
    if len(study.directions) > 1:
        raise UsageError(f"{path}: study {study.study_name} has {len(study.directions)} objectives: export trials_dataframe()")
    trials = study.get_trials(deepcopy=False)
    params = sorted({key for trial in trials for key in trial.params})
    attributes = sorted({key for trial in trials for key in trial.user_attrs})
    head = ["number", "value", *(f"params_{key}" for key in params), *(f"user_attrs_{key}" for key in attributes), "state"]
    out = [head]
    for trial in trials:
        values = [trial.number, trial.value, *map(trial.params.get, params), *map(trial.user_attrs.get, attributes)]
        out.append([*map(tables.as_text, values), trial.state.name])
    return out, study.direction == optuna.study.StudyDirection.MINIMIZE


def _check_sqlite(path: Path) -> None:
    try:
        connection = sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True)
        try:
            found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UsageError(f"{path}: not an SQLite file: {error}") from None
    if "studies" not in found or "trials" not in found:
        raise UsageError(f"{path}: an SQLite file, but not an Optuna storage: it has no table of studies")
