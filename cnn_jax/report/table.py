"""results.csv: a row per trial, readable by any program."""

import csv
import importlib.util
import io

from cnn_jax import stats
from cnn_jax.aliases import Row, Value

# Name of the column -> its place in the record; other columns are settings by names of flags.
# Outside scripts rely on the first group.
_RECORD = (
    "params", "macs", "receptive_field", "train_loss", "val_accuracy", "test_accuracy", "test_loss", "train_seconds",
    "compile_seconds",
)  # fmt: skip
_MORE = ("reason", "val_loss", "test_examples", "selected_epoch", "images_per_second", "device", "finished", "command")
_CONFIG = (
    "dataset", "model", "filters", "kernel_size", "strides", "padding", "activation", "learning_rate", "batch_size", "epochs",
)  # fmt: skip


def row(record: stats.Record) -> Row:
    """One trial under the columns of results.csv. Unknown values, and settings left to the model, are None."""
    config = stats.flat(record["config"])
    code, versions = record["code"] or {}, record["versions"] or {}
    out: Row = {"trial": record["trial"], "status": record["status"]}
    out |= {name: config.pop(name) for name in _CONFIG}
    out |= {"seed": record["config"]["seed"]} | {name: record.get(name) for name in _RECORD}
    out |= config | (record.get("metrics") or {}) | {name: record.get(name) for name in _MORE}
    out |= {"jax": versions.get("jax"), "commit": code.get("commit"), "dirty": code.get("dirty")}
    out["data_checksum"] = (record["data"] or {}).get("checksum")
    return out


def rows(records: list[stats.Record]) -> list[Row]:
    """All trials under the columns of results.csv; an option that some trials omit has its default there."""
    defaults = stats.option_defaults(records)
    return [defaults[record["config"]["model"]["name"]] | row(record) for record in records]


def cell(value: Value) -> Value:
    """A value as a CSV cell: stacks and sizes joined by '-', None empty, numbers in full precision."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return "" if value is None else value


def results_csv(records: list[stats.Record]) -> str:
    """The text of results.csv; options of some models are columns that are empty for the others."""
    return to_csv(rows(records), ("trial", "status", *_CONFIG, "seed", *_RECORD))


def results_parquet(records: list[stats.Record]) -> bytes | None:
    """The same table as a Parquet file, with the types that CSV loses; None without pyarrow or without a trial."""
    if not records or importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow
    import pyarrow.parquet

    table = rows(records)
    columns: dict[str, list[Value]] = {}
    for name in dict.fromkeys(name for r in table for name in r):
        values = [r.get(name) for r in table]
        # A column with stacks in some rows is text in all rows: 8 and 16-32.
        plain = len({type(v) for v in values if v is not None} - {int, float}) == 0 or all(
            isinstance(v, bool | None) for v in values
        )
        columns[name] = values if plain else [None if v is None else _utf8(str(cell(v))) for v in values]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()  # a path may hold bytes that are not UTF-8


def to_csv(rows: list[Row], columns: tuple[str, ...] = ()) -> str:
    """Rows as CSV; the header is `columns` and then every other key in order of first appearance."""
    columns = tuple(dict.fromkeys([*columns, *(name for r in rows for name in r)]))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in r.items()} for r in rows)
    return out.getvalue()
