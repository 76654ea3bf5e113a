"""Training: pure functions of (static config, hyperparameters, data, position)."""
