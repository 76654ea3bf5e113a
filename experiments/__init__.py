"""Sweeps that answer a question each. A new file here is a new experiment: a docstring, DEFAULTS, and trials(request)."""
