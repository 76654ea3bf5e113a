"""Names of types that annotations share, above all those that Python cannot say more exactly. No JAX is imported."""

from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    import jax
    import numpy as np

PyTree: TypeAlias = Any  # nested containers of arrays, as jax.tree takes and gives them
JsonObject: TypeAlias = dict[str, Any]  # an object of JSON, parsed: its values are None, bool, int, float, str, list or dict
Row: TypeAlias = dict[str, Any]  # a line of a table by the names of its columns
# Of a flag, an axis or an option: bool, int, float, str, a stack (16, 32), or None where it is left to the model.
Value: TypeAlias = Any
Array: TypeAlias = Union["jax.Array", "np.ndarray"]
