"""What a user is told when input is wrong: one line, with the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """The user's input is wrong: the message is one line, the exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: object) -> str:
    """Return a text as one line without control characters, which a file's name or content may hold."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


def nearest(given: str, valid: Iterable[str]) -> str:
    """Return "did you mean 'x'?", or the choices there are when nothing is near."""
    choices = sorted(valid)
    near = difflib.get_close_matches(given, choices, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    return f"there is {shown}" if choices else "there is none"
