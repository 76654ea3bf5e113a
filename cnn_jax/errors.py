"""Errors that end as one line on stderr and exit status 2."""


class UsageError(ValueError):
    """Invalid user input. The message is one line that names the culprit and the legal values."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: in a notebook the error is one line as well."""
        return [f"{type(self).__name__}: {' '.join(str(self).split())}"]
