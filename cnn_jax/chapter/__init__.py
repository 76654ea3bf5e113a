"""Tests of the chapter: its sentences as claims, their measurements on a sweep, and a page with the results.

`experiments/chapter.py` calls `conclude` after training. No JAX is imported before that.
"""

from collections.abc import Sequence
from pathlib import Path

from cnn_jax import stats
from cnn_jax.chapter import words
from cnn_jax.console import Console
from cnn_jax.records import files, store

PAGE, TABLE = "chapter.html", "chapter.csv"


def conclude(folder: Path, records: Sequence[stats.Record], console: Console) -> None:
    """Test the sentences on the trained networks of a sweep; print the verdicts, write the page and the table.

    Args:
      folder: folder of the sweep.
      records: records of its trials, of one data set.
      console: output for the verdicts.

    Raises:
      UsageError: the sweep has no network of the chapter, or the data have changed.
    """
    from cnn_jax.chapter import findings, page

    with console.status("measuring the networks"):
        found = findings.find(folder, records)
    with store.reporting(folder):
        files.replace(folder / PAGE, page.page(found).encode())
        files.replace(folder / TABLE, words.table(found.claims).encode())
    words.terminal(found.claims, found.dataset, found.seeds, console)
    console.print(f"chapter: {folder / PAGE}", soft_wrap=True)
