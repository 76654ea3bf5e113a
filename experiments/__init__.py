"""Sweeps that answer a question each. A new file here is a new experiment: a docstring and DEFAULTS.

Its trials are the product of the axes, unless it has a function trials(request). Its conclusion is the answer of any sweep,
unless it has a function conclude(folder, records, console).
"""
