"""Double precision for as long as a `with x64():` lasts."""

import jax
import jax.experimental

# Public under this name from jax 0.8 on; Colab has 0.7.
x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
