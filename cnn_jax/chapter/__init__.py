"""The chapter on trial: its sentences as claims, what a sweep says of each, and a page that shows it.

`conclude` is what `experiments/chapter.py` does when its networks are trained. No JAX until it is called.
"""

from collections.abc import Sequence
from pathlib import Path

from cnn_jax import stats
from cnn_jax.chapter import words
from cnn_jax.console import Console
from cnn_jax.records import files, store

PAGE, TABLE = "chapter.html", "chapter.csv"


def conclude(folder: Path, records: Sequence[stats.Record], console: Console) -> None:
    """Measure the sentences on the trained networks of a sweep; print the verdicts, write the page and the table.

    Args:
      folder: of the sweep.
      records: of its trials, of one data set.
      console: of the verdicts.

    Raises:
      UsageError: no network that the chapter is about was trained, or the data have changed.
    """
    from cnn_jax.chapter import findings, page

    with console.status("measuring the networks"):
        found = findings.find(folder, records)
    with store.reporting(folder):
        files.replace(folder / PAGE, page.page(found).encode())
        files.replace(folder / TABLE, words.table(found.claims).encode())
    words.terminal(found.claims, found.dataset, found.seeds, console)
    console.print(f"chapter: {folder / PAGE}", soft_wrap=True)
