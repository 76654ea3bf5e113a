"""The test images that no run got right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnn_jax import stats
from cnn_jax.report import pictures, svg, trained, words

if TYPE_CHECKING:
    from cnn_jax.report.sweep import Sweep

IMAGE_BYTES = 200_000  # of the page, for images of one data set
NUMBERS = 100  # of images that are listed without being shown


def gallery(sweep: "Sweep") -> str:
    """The images of each test set with their true labels; their numbers alone where a folder holds no images. May be empty."""
    sets: dict[tuple[str, int], list[stats.Record]] = {}
    for record in sweep.records:
        if record["status"] == "done" and record.get("test_correct") is not None:
            key = (record.get("data") or {}).get("checksum", ""), record["test_examples"]
            sets.setdefault(key, []).append(record)
    body = ""
    for (checksum, _), records in sets.items():
        if missed := stats.never_right(records).tolist():
            body += _one(records, missed, sweep.images.get(checksum), several=len(sets) > 1)
    return f"<h2>Test images that no run got right</h2>{body}" if body else ""


def _one(records: Sequence[stats.Record], missed: list[int], images: pictures.Images | None, *, several: bool) -> str:
    total = records[0]["test_examples"]
    where = f" of {records[0]['config']['data']['dataset']}" if several else ""
    known = images.test if images else {}
    items, size, rest = [], 0, []
    for index in missed:
        address = pictures.png(known[index][0]) if index in known and size < IMAGE_BYTES else ""
        size += len(address)
        if not address or size > IMAGE_BYTES:
            rest.append(index)
            continue
        image, label = known[index]
        caption = f"{svg.escape(label)} <small>#{index}</small>"
        items.append(trained.picture(address, image.shape, f"test image {index} of class {label}", caption))
    share = f"{words.percent(len(missed) / total)} of {total:,}"
    note = f"{words.count(len(missed), 'image')}{where}, {share}, in {words.count(len(records), 'run')}."
    if items:
        note += " Below an image: its label, and its number in the test set. A label may be wrong."
    out = svg.tag("p", svg.escape(note), class_="note")
    out += svg.tag("div", "".join(items), class_="gallery") if items else ""
    if rest:
        listed = ", ".join(map(str, rest[:NUMBERS])) + (" …" if len(rest) > NUMBERS else "")
        out += svg.tag("p", svg.escape(f"{'Others' if items else 'Numbers'}: {listed}"), class_="note")
    return out
