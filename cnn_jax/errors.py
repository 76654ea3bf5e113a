"""Errors that end as one line on stderr and exit status 2."""


class UsageError(ValueError):
    """Invalid user input. The message is one line that names the culprit and the legal values."""
