"""The part of a backbone's card that says how it was pretrained: each pretraining, from the first to the last.

A card comes with a backbone that a stranger may have sent, so entries of unexpected types are left out.
"""

from __future__ import annotations

from typing import Any

_KEYS = ("method", "world", "data", "settings")


def pretrainings(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pretrainings of a backbone in order. Each has `method`, `world`, `data` and `settings`.

    `data` has the data set's SHA-256 and its number of steps, `settings` has the hyperparameters and the seed.
    """
    earlier = card.get("earlier", [])
    entries = [*(earlier if isinstance(earlier, list) else []), {key: card.get(key) for key in _KEYS}]
    return [each for each in entries if isinstance(each, dict) and _has_types(each)]


def _has_types(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("data"), dict) and isinstance(entry.get("settings"), dict)
