"""How a convolution is computed: `conv` chooses between C (`ffi`, `native`), XLA (`xla`) and `lax`."""
