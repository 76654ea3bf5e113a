"""Training recipes as data: names of training components, and published recipes. No JAX."""
