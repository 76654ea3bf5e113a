"""Learning curves as TensorBoard event files, written without TensorFlow.

An event file is a sequence of TFRecords (length, masked CRC of it, data, masked CRC of that), each an `Event` message of
tensorflow/core/util/event.proto. Only the five fields that a scalar needs are encoded here.
"""

import datetime
import struct
from collections.abc import Iterator
from pathlib import Path

from cnn_jax import stats
from cnn_jax.records import store


def write(records: list[stats.Record], dir: Path) -> int:
    """Writes a run per trial under `dir`, a scalar per column of its history, and returns how many runs it wrote.

    `tensorboard --logdir DIR` shows them. A trial's file is replaced, so writing again adds nothing twice.
    """
    for record in records:
        folder = dir / record["trial"]
        for part in (dir, folder):
            if store.is_local(part) and part.is_symlink():  # it could lead out of the folder that is reported on
                raise store.StoreError(f"{part} is a symbolic link: remove it to write TensorBoard files there")
        folder.mkdir(parents=True, exist_ok=True)
        store.replace(folder / "events.out.tfevents.0.cnn_jax", b"".join(map(_frame, _events(record))))
    return len(records)


def _events(record: stats.Record) -> Iterator[bytes]:
    finished = record.get("finished")
    at = datetime.datetime.fromisoformat(finished).timestamp() if finished else 0.0
    time = b"\x09" + struct.pack("<d", at)  # field 1: wall_time, a double
    yield time + _bytes(3, b"brain.Event:2")  # field 3: file_version, which must come first
    for row in record["history"]:
        for name, value in row.items():
            if name != "epoch" and value is not None:
                scalar = _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value)  # 1: tag, 2: simple_value, a float
                yield time + b"\x10" + _varint(row["epoch"]) + _bytes(5, _bytes(1, scalar))  # 2: step, 5: summary, its 1: value


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as RFC 3720 section 12.1 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_table_entry(byte) for byte in range(256)]
