"""Benchmarks against other libraries, as whole processes: see README.md."""
