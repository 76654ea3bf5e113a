"""Ours against others, measured as whole processes: see README.md."""
