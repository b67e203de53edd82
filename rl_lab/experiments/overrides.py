"""Overrides, key=value: values of text keys are taken as they are typed, all others have Hydra's grammar."""

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

# `world` and `agent` name a file, `opponent` an agent or a path; `path` and `sha256` are of a trained opponent.
_TEXTS = {"name", "device", "run_dir", "role", "world", "world.name", "agent", "agent.name", "evaluation.actions"}
_TEXTS |= {"opponent", "opponent.name", "opponent.path", "opponent.sha256"}
_TEXTS |= {"backbone", "backbone.path", "backbone.sha256", "backbone.mode", "backbone.parts", "mode", "parts"}
_EMPTY = ("run_dir", "opponent", "backbone")  # keys that can be null: they then have no value
_FREE = ("run_dir", "name", "parts", "backbone.parts")  # keys whose text may hold a comma although nothing is swept
_WHOLE = ("worlds", "budget", "checkpoint.steps", "evaluation.episodes", "evaluation.selection_episodes")
_FUNCTION = re.compile(r"(choice|shuffle|sort|range|interval|glob|tag|extend_list|int|float|str|bool|json_str)\s*\(")
_PARAMETER = re.compile(r"\+{1,2}(?=world\.params\.)")


def parse_overrides(lines: Iterable[str]) -> list[Any]:
    """Return Hydra's overrides for lines key=value; none of them sweeps. Raises ScenarioError with one line."""
    overrides = _parse(_as_hydra(_whole(line)) for line in lines)
    for override in overrides:
        _check_grammar(override)
        if override.is_sweep_override():
            raise ScenarioError(f"{override.input_line} lists several values; add -m to run each of them")
    return overrides


def sweep(overrides: Iterable[str]) -> list[list[str]]:
    """Return the override lists of a multirun: the product of every `key=a,b,c`.

    Raises ScenarioError for a value that is listed twice, in any notation, and for a swept key that is given
    again: a seed that counts twice makes an interval too narrow.
    """
    choices = [_choices(line) for line in map(_whole, overrides)]
    swept: dict[str, bool] = {}
    for lines in choices:
        key = _key(lines[0])
        if swept.get(key):
            raise ScenarioError(f"the sweep has {key} twice; list its values once: {key}=A,B,C")
        swept[key] = len(lines) > 1
        values = list(map(_effective_value, lines)) if len(lines) > 1 else []
        twice = next((line for k, line in enumerate(lines) if values and values[k] in values[:k]), None)
        if twice is not None:
            raise ScenarioError(f"the sweep lists {twice} twice; list each value once")
    return [list(combination) for combination in itertools.product(*choices)]


def _key(line: str) -> str:
    return without_plus(line).partition("=")[0]


def _effective_value(line: str) -> object:
    """Return a value that is equal for overrides that set their key to the same: 0.5 and 5e-1, 1 and '1'."""
    key, _, value = line.partition("=")
    if is_text_key(key) and _is_plain(key, value):
        return value
    (override,) = _parse([_as_hydra(line)])
    text = str(override.value())
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def _choices(line: str) -> list[str]:
    """Return the overrides that one of a multirun stands for, one for each value."""
    from hydra.errors import HydraException

    if (texts := _swept_texts(line)) is not None:
        return texts
    line = _as_hydra(line)
    if _is_parameter(line) and _read(line) is None:  # texts that only a world may know: between the commas, not quoted
        key, _, value = line.partition("=")
        return [f"{key}={part}" for part in _split(value)]
    (override,) = _parse([line])
    _check_grammar(override)
    if not override.is_sweep_override():
        return [override.input_line]
    try:
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, ValueError, TypeError):
        raise ScenarioError(f"cannot sweep {line!r}: write key=A,B,C or key=range(START,STOP,STEP)") from None


def _whole(line: str) -> str:
    """Write a whole number like 1e6 out where one is asked for."""
    key, _, value = line.partition("=")
    if key in _WHOLE and re.fullmatch(r"\d+(\.\d+)?e\+?\d{1,2}", value) and float(value).is_integer():
        return f"{key}={int(float(value))}"
    return line


def _parse(overrides: Iterable[str]) -> list[Any]:
    parsed = []
    for line in overrides:
        if "=" not in line:
            raise ScenarioError(f"{line!r} is not an override; write key=value")
        override = _read(line) or (_read(_quoted(*line.split("=", 1))) if _is_parameter(line) else None)
        if override is None:
            raise ScenarioError(f"cannot read override {line!r}: {_unreadable(line)}")
        parsed.append(override)
    return parsed


def _read(line: str) -> Any:
    """Return Hydra's override for a line, or None where its grammar has no such override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        (override,) = OverridesParser.create().parse_overrides([line])
        return override
    except (HydraException, ValueError, RecursionError):
        return None


def _is_parameter(line: str) -> bool:
    """Return whether a line sets a world's parameter.

    It may be a text, which is not known before its world is known. Only what Hydra cannot read is taken for a text.
    """
    return line.startswith("world.params.")


def _check_grammar(override: Any) -> None:
    line = override.input_line
    if override.is_delete() or override.package is not None or override.key_or_group.startswith("hydra"):
        raise ScenarioError(f"{line}: ~key, key@package and hydra's own settings are refused; write key=value")
    if "_target_" in (override.key_or_group if is_text_key(override.key_or_group) else line) or "${" in line:
        raise ScenarioError(f"{line}: _target_ and ${{...}} are refused: config is data")


def is_text_key(key: str) -> bool:
    """Return whether a key's value is text: such a value is never read as a number, a list or a mapping."""
    return key in _TEXTS or key in _text_fields()


@cache
def _text_fields() -> frozenset[str]:
    """Return the nested keys that every agent (or the league) that has them declares as str."""
    kinds: dict[str, set[str]] = {}
    configs = [("league.", LeagueConfig)]
    configs += [
        (node, agent_registry.load(name).Config) for name in agent_registry.names() for node in ("agent.", "opponent.")
    ]
    for node, config in configs:
        for field in dataclasses.fields(config):
            kinds.setdefault(node + field.name, set()).add(str(field.type))
    return frozenset(key for key, found in kinds.items() if found <= {"str", "<class 'str'>", "str | None"})


def without_plus(line: str) -> str:
    """Return an override of a world's parameter without the plus that Hydra asks for where a key is new."""
    return _PARAMETER.sub("", line, count=1) if _PARAMETER.match(line) else line


def _as_hydra(line: str) -> str:
    """Return an override with the value of a text key quoted, so that Hydra's grammar hands it on unchanged.

    `+world.params.FIELD=` and `++world.params.FIELD=` mean `world.params.FIELD=`: whether the parameter is in the
    world's list of defaults, or only its constructor knows it, makes no difference to a user.
    """
    line = without_plus(line)
    key, equals, value = line.partition("=")
    if not equals or not is_text_key(key) or not _is_plain(key, value) or (key not in _FREE and _is_list(value)):
        return line
    return _quoted(key, value)


def _quoted(key: str, value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _unreadable(line: str) -> str:
    """Return why Hydra's grammar has no such override, and what to write."""
    key, _, value = line.partition("=")
    if not re.fullmatch(r"[+~]*[\w.@/:-]+", key, re.ASCII):
        return f"{key!r} is no key; keys are letters of a to z, digits, _ and dots"
    if key == "policies":
        return "write policies={NAME: [AGENT, ...], ...}; a NAME consists of a-z, 0-9 and _, 40 at most"
    if (foreign := next((letter for letter in value if not letter.isascii()), None)) is not None:
        return f"{foreign!r} can stand only in a text between quotes, and not in a mapping's key"
    return "a value is a number, true, false, null, [A, B], {KEY: VALUE} or a text, quoted if it has other signs"


def _is_plain(key: str, value: str) -> bool:
    """Return whether a text key's value is text: null, or an opponent with options of its own, is not."""
    return not (value == "null" and key in _EMPTY) and not (key == "opponent" and value.lstrip().startswith("{"))


def _is_list(value: str) -> bool:
    """Return whether a value names several things; a comma in the name of what exists is a part of that name."""
    from pathlib import Path

    try:
        return "," in value and not Path(value).exists()
    except (OSError, ValueError):
        return True


def _swept_texts(line: str) -> list[str] | None:
    """Return the overrides that one of a text key means in a multirun, one a value; None where Hydra is to say so."""
    key, equals, value = line.partition("=")
    if not equals or not is_text_key(key) or _FUNCTION.match(value.lstrip()):
        return None
    if not _is_list(value):
        return [line]
    return [f"{key}={part}" for part in _split(value)]


def _split(value: str) -> Iterator[str]:
    """Yield the parts of a value between its commas, but for commas inside brackets."""
    start = depth = 0
    for at, letter in enumerate(value):
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth <= 0:
            yield value[start:at]
            start = at + 1
    yield value[start:]
