"""This module parses the parameters of a tournament's world from words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rl_lab.core.errors import UsageError
from rl_lab.core.untrusted import is_finite, parse_json

PARAMS = "world.params."  # prefix of these words


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """Return the world's parameters from words of the form `world.params.FIELD=VALUE`.

    Raises UsageError for a word of another form, and for a number that is not finite.
    """
    params: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.removeprefix(PARAMS).partition("=")
        if not equals or not value:
            raise UsageError(f"{word}: expected {PARAMS}FIELD=VALUE")
        try:
            params[key] = parse_json(value)
        except ValueError:
            params[key] = value  # a string, which a constructor may accept
        # JSON's parser accepts NaN and Infinity, and 1e999 becomes infinite.
        if value.strip("+-").lower() in ("nan", "inf", "infinity") or not is_finite(params[key]):
            raise UsageError(f"{word}: expected {PARAMS}FIELD=NUMBER, a finite one")
    return params
