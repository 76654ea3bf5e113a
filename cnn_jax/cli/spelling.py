"""Suggestions for misspelt names: --lr for --learning_rate, paddding for padding."""

import difflib
from collections.abc import Callable, Sequence


def did_you_mean(name: str, known: Sequence[str], prefix: str = "") -> str:
    """'did you mean --filters? ' with the known name closest to `name`; '' if none is close."""
    found = closest(name, known)
    return f"did you mean {prefix}{found}? " if found else ""


def closest(name: str, known: Sequence[str]) -> str | None:
    """The known name of the same letters, initials, beginning or end as `name`, or the one spelt most alike."""
    plain = name.replace("-", "_").lower()
    tests: tuple[Callable[[str], bool], ...] = (
        lambda other: other == plain,
        lambda other: len(plain) > 1 and "".join(part[:1] for part in other.split("_")) == plain,
        lambda other: len(plain) > 2 and other.startswith(plain),
        lambda other: len(plain) > 3 and (other.endswith("_" + plain) or plain.endswith("_" + other)),
    )
    for test in tests:
        if found := next(filter(test, known), None):
            return found
    return next(iter(difflib.get_close_matches(plain, known, n=1)), None)
