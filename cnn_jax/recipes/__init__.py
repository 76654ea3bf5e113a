"""How networks are trained, as data: names of training components, and published recipes. No JAX."""
