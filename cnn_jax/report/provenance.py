"""Provenance of the results of a sweep: commands, code, devices, versions, data."""

import collections
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnn_jax.report.sweep import Sweep


def rows(sweep: "Sweep") -> list[tuple[str, str]]:
    """Facts as (what, value)."""

    def tally(values: Iterable[object]) -> str:
        counts = collections.Counter(str(v) for v in values if v is not None)
        total = sum(counts.values())
        return "; ".join(k if n == total else f"{k} ({n} trials)" for k, n in counts.most_common(12)) or "–"

    records = sweep.records
    images = ("train", "validation", "test")
    rows: list[tuple[str, str]] = [("command", c["command"]) for c in sweep.commands]
    if not rows:
        rows.append(("command", tally(r.get("command") for r in records)))
    commits = tally(
        f"{c['commit']}{' with uncommitted changes' if c.get('dirty') else ''}" for r in records if (c := r.get("code"))
    )
    rows.append(("code", commits))
    rows.append(("device", tally(r.get("device") for r in records)))
    rows += [
        (p, tally((r.get("versions") or {}).get(p) for r in records))
        for p in sorted({p for r in records for p in r.get("versions") or ()})
    ]
    sets = (
        f"{r['config']['data']['dataset']}: {', '.join(f'{d[k]:,} {k}' for k in images)} images, checksum {d['checksum']}"
        for r in records
        if (d := r.get("data"))
    )
    rows.append(("data", tally(sets)))
    times = sorted(r["finished"] for r in records if r.get("finished"))
    if times:
        rows.append(("finished", f"{times[0]} to {times[-1]}"))
    rows += [("damaged line", line) for line in sweep.damaged]
    return rows
