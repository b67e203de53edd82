"""This module has the errors whose messages are one line for the user, with the nearest valid choice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_VERSION = r"[-_]v\d+$"  # at the end of an id of Gymnasium or PettingZoo
_MAX_CANDIDATES = 8  # the most names that a message about an ambiguous prefix lists


class UsageError(ValueError):
    """The user's input is wrong: the message is one line, the exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class WorkFailed(Exception):  # noqa: N818
    """The work failed, also by a mistake in a world's code: the message is one line, the exit status 1."""


def one_line(text: object) -> str:
    """Return a text as one line without control characters, which names and contents of files may contain."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


def without_colours(text: str) -> str:
    """Return a library's message without the codes by which it colours it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def only_match(prefix: str, paths: Sequence[Path]) -> Path | None:
    """Return the path whose last part is `prefix`, or else the only one whose last part begins with it, or None.

    Raises:
        UsageError: several begin with it; the message lists them.
    """
    matches = [path for path in paths if path.name == prefix] or [p for p in paths if p.name.startswith(prefix)]
    if len(matches) > 1:
        candidates = ", ".join(map(str, matches[-_MAX_CANDIDATES:]))
        older = f" and {len(matches) - _MAX_CANDIDATES} older ones" if len(matches) > _MAX_CANDIDATES else ""
        raise UsageError(f"{prefix} is ambiguous: it may be {candidates}{older}")
    return matches[0] if matches else None


def nearest_id(name: str, valid: Iterable[str], prefix: str) -> str:
    """Return "; did you mean 'x'?" for an id of a library that is near to this one, "" where none is.

    `valid` and `name` are without the prefix. Only the names themselves are compared: without a family, as `classic` in
    classic/chess_v6, without the version, and without regard to upper case.
    """
    family = name.rpartition("/")[0]  # of two ids with one name, that of the same family is meant
    choices = {_bare(each): each for each in sorted(valid, key=lambda each: (each.rpartition("/")[0] == family, each))}
    similar = difflib.get_close_matches(_bare(name), choices, n=1, cutoff=0.75)
    return f"; did you mean {prefix + choices[similar[0]]!r}?" if similar else ""


def _bare(identity: str) -> str:
    return re.sub(_VERSION, "", identity).rpartition("/")[2].lower()


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest valid name, or the list of names where none is similar."""
    choices = sorted(valid)
    # Of names in one group, such as agent.lr, only the last parts are compared: the first are alike in any case.
    group = name.rpartition(".")[0] + "."
    parts = {each.removeprefix(group): each for each in choices if each.startswith(group)}
    named = parts or {each: each for each in choices}
    similar = difflib.get_close_matches(name.removeprefix(group) if parts else name, named, n=1, cutoff=0.5)
    if similar:
        return f"did you mean {named[similar[0]]!r}?"
    listing = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    return f"there is {listing}" if choices else "there is none"
