"""Search strategies: which trials of a sweep to run next. No JAX.

A strategy is an object with `ask`, see `Strategy`. A fork's `package.module:attribute` is a function, or a class, that takes
the planned trials and returns one.
"""

from cnn_jax.search.seeds import AddSeeds
from cnn_jax.search.strategy import Strategy, ask, load

__all__ = ["AddSeeds", "Strategy", "ask", "load"]
