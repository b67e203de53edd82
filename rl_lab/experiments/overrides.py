"""Parse overrides, key=value, from the command line into Hydra's override objects; and expand those of a sweep.

Keys whose values are text (a path, a name) are taken exactly as they are typed: they are quoted before Hydra parses
them. All other values have Hydra's grammar. `parse_overrides` is for one scenario, `sweep_combinations` for `train -m`,
where key=A,B,C stands for several. Hydra's functions that name code or read from outside are refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from rl_lab.core import agent_registry
from rl_lab.experiments.scenario_yaml import ScenarioError
from rl_lab.league.config import LeagueConfig

# The keys of a scenario whose values are text, besides those fields of agents' Configs, see `_text_fields`.
_TEXT_KEYS = {"name", "device", "run_dir", "role", "world", "world.name", "agent", "agent.name", "evaluation.actions"}
_TEXT_KEYS |= {"opponent", "opponent.name", "opponent.path", "opponent.sha256"}
_TEXT_KEYS |= {"backbone", "backbone.path", "backbone.sha256", "backbone.mode", "backbone.parts", "mode", "parts"}
_NULLABLE_KEYS = ("run_dir", "opponent", "backbone")  # text keys for which null means that they have no value
# Text keys in which a comma does not separate the values of a sweep, unless -m is given.
_KEYS_WITH_COMMAS = ("run_dir", "name", "parts", "backbone.parts")
# Keys for which 1e6 is accepted as an integer.
_INTEGER_KEYS = ("worlds", "budget", "checkpoint.steps", "evaluation.episodes", "evaluation.selection_episodes")
_SWEEP_FUNCTION = re.compile(
    r"(choice|shuffle|sort|range|interval|glob|tag|extend_list|int|float|str|bool|json_str)\s*\("
)
# Hydra wants + before a key that has no default, and ++ before any key.
_PLUS_BEFORE_PARAMETER = re.compile(r"\+{1,2}(?=world\.params\.)")


def parse_overrides(lines: Iterable[str]) -> list[Any]:
    """Return Hydra's overrides for lines key=value of one scenario. Raises ScenarioError, also for a list of values."""
    overrides = _parse_lines(_quote_text(_expand_exponent(line)) for line in lines)
    for override in overrides:
        _check_grammar(override)
        if override.is_sweep_override():
            raise ScenarioError(f"{override.input_line} lists several values; add -m to run each of them")
    return overrides


def sweep_combinations(overrides: Iterable[str]) -> list[list[str]]:
    """Return the override lists of a multirun: the product of every `key=a,b,c`.

    Raises ScenarioError for a value that is listed twice, in any notation, and for a swept key that is set again: a
    seed that counted twice would make the interval over seeds too narrow.
    """
    lines_of_keys = [_sweep_lines(line) for line in map(_expand_exponent, overrides)]
    is_swept: dict[str, bool] = {}  # by key
    for lines in lines_of_keys:
        key = _key(lines[0])
        if is_swept.get(key):
            raise ScenarioError(f"the sweep has {key} twice; list its values once: {key}=A,B,C")
        is_swept[key] = len(lines) > 1
        values = list(map(_effective_value, lines)) if len(lines) > 1 else []
        repeated = next((line for k, line in enumerate(lines) if values and values[k] in values[:k]), None)
        if repeated is not None:
            raise ScenarioError(f"the sweep lists {repeated} twice; list each value once")
    return [list(combination) for combination in itertools.product(*lines_of_keys)]


def _key(line: str) -> str:
    return without_plus(line).partition("=")[0]


def _effective_value(line: str) -> object:
    """Return the value of an override in a form in which equal values compare equal: 0.5 and 5e-1, 1 and '1'."""
    key, _, value = line.partition("=")
    if is_text_key(key) and _is_plain_text(key, value):
        return value
    (override,) = _parse_lines([_quote_text(line)])
    text = str(override.value())
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def _sweep_lines(line: str) -> list[str]:
    """Return the overrides that one line of a multirun stands for: one for each of its values."""
    from hydra.errors import HydraException

    if (texts := _sweep_text_lines(line)) is not None:
        return texts
    line = _quote_text(line)
    if _sets_world_parameter(line) and _parse_line(line) is None:  # texts of a parameter, unquoted: split at commas
        key, _, value = line.partition("=")
        return [f"{key}={part}" for part in _split_at_commas(value)]
    (override,) = _parse_lines([line])
    _check_grammar(override)
    if not override.is_sweep_override():
        return [override.input_line]
    try:
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, ValueError, TypeError):
        raise ScenarioError(f"cannot sweep {line!r}: write key=A,B,C or key=range(START,STOP,STEP)") from None


def _expand_exponent(line: str) -> str:
    """Return the override of an integer key with 1e6 written as 1000000, and others as they are."""
    key, _, value = line.partition("=")
    if key in _INTEGER_KEYS and re.fullmatch(r"\d+(\.\d+)?e\+?\d{1,2}", value) and float(value).is_integer():
        return f"{key}={int(float(value))}"
    return line


def _parse_lines(overrides: Iterable[str]) -> list[Any]:
    parsed = []
    for line in overrides:
        if "=" not in line:
            raise ScenarioError(f"{line!r} is not an override; write key=value")
        override = _parse_line(line)
        if override is None and _sets_world_parameter(line):
            key, value = line.split("=", 1)
            override = _parse_line(f"{key}={quote_value(value)}")
        if override is None:
            raise ScenarioError(f"cannot read override {line!r}: {_why_unreadable(line)}")
        parsed.append(override)
    return parsed


def _parse_line(line: str) -> Any:
    """Return Hydra's override for a line, or None where its grammar has no such override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        (override,) = OverridesParser.create().parse_overrides([line])
        return override
    except (HydraException, ValueError, RecursionError):
        return None


def _sets_world_parameter(line: str) -> bool:
    """Return whether a line sets a parameter of the world.

    Its type is not known before the world is loaded. So a value that Hydra cannot parse is taken as a text.
    """
    return line.startswith("world.params.")


def _check_grammar(override: Any) -> None:
    """Raise ScenarioError for an override that does more than set a key: deletion, packages, `_target_`, `${...}`."""
    line = override.input_line
    if override.is_delete() or override.package is not None or override.key_or_group.startswith("hydra"):
        raise ScenarioError(f"{line}: ~key, key@package and hydra's own settings are refused; write key=value")
    if "_target_" in (override.key_or_group if is_text_key(override.key_or_group) else line) or "${" in line:
        raise ScenarioError(f"{line}: _target_ and ${{...}} are refused: config is data")


def is_text_key(key: str) -> bool:
    """Return whether a key's value is text: such a value is never read as a number, a list or a mapping."""
    return key in _TEXT_KEYS or key in _text_fields()


@cache
def _text_fields() -> frozenset[str]:
    """Return the keys agent.FIELD, opponent.FIELD and league.FIELD that are text in every Config with that field."""
    types: dict[str, set[str]] = {}
    configs = [("league.", LeagueConfig)]
    configs += [
        (section, agent_registry.load(name).Config)
        for name in agent_registry.names()
        for section in ("agent.", "opponent.")
    ]
    for section, config in configs:
        for field in dataclasses.fields(config):
            types.setdefault(section + field.name, set()).add(str(field.type))
    return frozenset(key for key, names in types.items() if names <= {"str", "<class 'str'>", "str | None"})


def without_plus(line: str) -> str:
    """Return an override of a world's parameter without the + or ++ before it, and other lines as they are."""
    return _PLUS_BEFORE_PARAMETER.sub("", line, count=1) if _PLUS_BEFORE_PARAMETER.match(line) else line


def _quote_text(line: str) -> str:
    """Return an override with the value of a text key quoted, so that Hydra's parser does not change it.

    `+world.params.FIELD=` and `++world.params.FIELD=` mean `world.params.FIELD=`. Hydra distinguishes whether a
    parameter has a default or is only an argument of a constructor; users need not know.
    """
    line = without_plus(line)
    key, equals, value = line.partition("=")
    if (
        not equals
        or not is_text_key(key)
        or not _is_plain_text(key, value)
        or (key not in _KEYS_WITH_COMMAS and _is_comma_list(value))
    ):
        return line
    return f"{key}={quote_value(value)}"


def quote_value(value: str) -> str:
    """Return a text between quotes, so that Hydra's parser does not change it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return str(QuotedString(value, Quote.single).with_quotes())


def _why_unreadable(line: str) -> str:
    """Return why Hydra's grammar has no such override, and what to write."""
    key, _, value = line.partition("=")
    if not re.fullmatch(r"[+~]*[\w.@/:-]+", key, re.ASCII):
        return f"{key!r} is no key; keys are letters of a to z, digits, _ and dots"
    if key == "policies":
        return "write policies={NAME: [AGENT, ...], ...}; a NAME consists of a-z, 0-9 and _, 40 at most"
    if (letter := next((letter for letter in value if not letter.isascii()), None)) is not None:
        return f"{letter!r} can stand only in a text between quotes, and not in a mapping's key"
    return "a value is a number, true, false, null, [A, B], {KEY: VALUE} or a text, quoted if it has other signs"


def _is_plain_text(key: str, value: str) -> bool:
    """Return whether the value of a text key is text. It is not where it is null, or a mapping for an opponent."""
    return not (value == "null" and key in _NULLABLE_KEYS) and not (
        key == "opponent" and value.lstrip().startswith("{")
    )


def _is_comma_list(value: str) -> bool:
    """Return whether a value is several values with commas between them, and not the path of an existing file."""
    from pathlib import Path

    try:
        return "," in value and not Path(value).exists()
    except (OSError, ValueError):
        return True


def _sweep_text_lines(line: str) -> list[str] | None:
    """Return the overrides of a text key's line in a multirun, one for each value; None if Hydra has to parse it."""
    key, equals, value = line.partition("=")
    if not equals or not is_text_key(key) or _SWEEP_FUNCTION.match(value.lstrip()):
        return None
    if not _is_comma_list(value):
        return [line]
    return [f"{key}={part}" for part in _split_at_commas(value)]


def _split_at_commas(value: str) -> Iterator[str]:
    """Yield the parts of a value between commas; commas inside brackets do not separate."""
    start = depth = 0
    for position, letter in enumerate(value):
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth <= 0:
            yield value[start:position]
            start = position + 1
    yield value[start:]
