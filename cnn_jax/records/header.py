"""Header of a folder, sweep.json: schema version and the commands that were run."""

import os
from pathlib import Path

from cnn_jax import schema
from cnn_jax.aliases import JsonObject
from cnn_jax.errors import UsageError
from cnn_jax.records import record as records
from cnn_jax.records.files import folder, read_file
from cnn_jax.records.lines import decode

MAX_HEADER = 2**24  # bytes
SCHEMA = records.SCHEMA


def read_header(dir: Path) -> records.Header | None:
    """The header; None if missing, or damaged in a folder of this program. Raises UsageError if another program wrote it."""
    try:
        data = read_file(dir / "sweep.json", MAX_HEADER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{dir / 'sweep.json'} cannot be read: {error.strerror or error}") from None
    try:
        raw = decode(data.removesuffix(b"\n"))
        check_schema(dir, raw)
        return schema.decode(records.Header, raw, ignore_unknown=True)
    except UsageError:
        raise
    except ValueError:
        if (dir / "plan").is_dir() or (dir / "records").is_dir():
            return None
        raise UsageError(
            f"--out: {dir / 'sweep.json'} is not this program's: name another folder, or remove the file"
        ) from None


def check_schema(dir: Path, found: JsonObject) -> None:
    if not isinstance(found.get("schema"), int):
        raise ValueError("no schema")
    if found["schema"] != SCHEMA:
        raise UsageError(
            f"--out: {dir} holds records of schema {found.get('schema')}, this version writes schema {SCHEMA}: "
            f"name another folder, or use the version that made it"
        )


def commands(dir: str | os.PathLike) -> list[JsonObject]:
    """The commands that were run in `dir`, each with its time, the name of its plan and the version that ran it."""
    return (read_header(folder(dir)) or records.Header()).to_json()["commands"]
