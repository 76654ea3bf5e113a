"""Import of results of other tools: tables of runs, as exported by trackers. No JAX; statistics are in `stats`."""

from cnn_jax.imports.runs import Results, Run, load
from cnn_jax.imports.tables import SUFFIXES, Table, is_table, read
from cnn_jax.imports.wanted import Wanted

__all__ = ["SUFFIXES", "Results", "Run", "Table", "Wanted", "is_table", "load", "read"]
