"""Results that something else made: tables of runs, as trackers export them. No JAX; the statistics are those of `stats`."""

from cnn_jax.imports.runs import Results, Run, load
from cnn_jax.imports.tables import SUFFIXES, Table, is_table, read
from cnn_jax.imports.wanted import Wanted

__all__ = ["SUFFIXES", "Results", "Run", "Table", "Wanted", "is_table", "load", "read"]
