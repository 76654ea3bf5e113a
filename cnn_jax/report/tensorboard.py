"""Learning curves as TensorBoard event files, by tensorboardX: without TensorFlow."""

import datetime
import tempfile
from pathlib import Path

from cnn_jax import stats
from cnn_jax.errors import UsageError
from cnn_jax.records import store


def check_available() -> None:
    """Raise UsageError if tensorboardX is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--tensorboard: tensorboardX is not available ({error}): pip install tensorboardX") from None


def write(records: list[stats.Record], dir: Path) -> int:
    """Write a run per trial under `dir`, a scalar per column of its history, and return the number of runs.

    `tensorboard --logdir DIR` shows them. A trial's file is replaced, so writing again adds no duplicates.
    """
    for record in records:
        folder = dir / record["trial"]
        for part in (dir, folder):
            if store.is_local(part) and part.is_symlink():  # it could point outside of the folder
                raise store.StoreError(f"{part} is a symbolic link: remove it to write TensorBoard files there")
        folder.mkdir(parents=True, exist_ok=True)
        store.replace(folder / "events.out.tfevents.0.cnn_jax", _event_file(record))
    return len(records)


def _event_file(record: stats.Record) -> bytes:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    finished = record.get("finished")
    at = datetime.datetime.fromisoformat(finished).timestamp() if finished else 0.0
    events = [Event(wall_time=at, file_version="brain.Event:2")]  # the version must come first
    for row in record["history"]:
        for name, value in row.items():
            if name != "epoch" and value is not None:
                summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
                events.append(Event(wall_time=at, step=row["epoch"], summary=summary))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "events"
        writer = RecordWriter(str(path))
        for event in events:
            writer.write(event.SerializeToString())
        writer.close()
        return path.read_bytes()
