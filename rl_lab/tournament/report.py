"""`report.html`: one file, readable offline, in which every number leads to its games, and games are played."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..evaluate import replace_file
from ..run import versions
from ..world import roles_of
from .folder import Tournament
from .ledger import Match
from .recording import Recording, record

NAME = "report.html"
_MOST_GAMES = 100_000  # listed
_MOST_FAULTS, _MOST_NOTABLE = 200, 100


def write(
    tournament: Tournament,
    matches: Sequence[Match],
    summary: dict[str, Any],
    *,
    games: int = 200,
    code: bool = False,
) -> tuple[Path, Recording]:
    """Write the report of a `summary.summary` into the tournament's folder; `games` of them can be watched in it.

    Which: one of each way in which each pairing came out, then decisive ones, upsets first.
    """
    elo = {row["name"]: row["rating"] for row in summary["table"]}
    surprises = {match.id: surprise(match, elo) for match in matches}
    recording = record(tournament, chosen(matches, surprises, games), code=code)
    data = _data(tournament, matches, summary, surprises, recording)
    path = tournament.path / NAME
    replace_file(path, _page(data).encode())
    return path, recording


def surprise(match: Match, elo: dict[str, float]) -> float | None:
    """Return how likely the winner's loss was by the ratings, mean over its opponents; None where nobody won alone."""
    best = [name for name in match.pairing if match.rank(name) == 1]
    if len(best) != 1 or len(match.pairing) < 2:
        return None
    others = [elo[name] for name in match.pairing if name != best[0]]
    return sum(1 / (1 + 10 ** ((elo[best[0]] - other) / 400)) for other in others) / len(others)


def chosen(matches: Sequence[Match], surprises: dict[str, float | None], count: int) -> list[Match]:
    """Return `count` matches to be watched, none by forfeit.

    First the most surprising one of each pairing, seating and result, then the others, no game twice where that can be.
    """
    order = sorted((m for m in matches if m.fault is None), key=lambda m: (-(surprises[m.id] or 0.0), m.id))
    kinds, traces = set[Any](), set[Any]()
    tiers: list[list[Match]] = [[], [], []]
    for match in order:
        kind, trace = (match.entrants, match.ranks), (match.entrants, match.trace)
        tiers[0 if kind not in kinds else 1 if trace not in traces else 2].append(match)
        kinds.add(kind)
        traces.add(trace)
    return [match for tier in tiers for match in tier][:count]


def _data(
    tournament: Tournament,
    matches: Sequence[Match],
    summary: dict[str, Any],
    surprises: dict[str, float | None],
    recording: Recording,
) -> dict[str, Any]:
    """Return what the page shows; games are rows of numbers: seating, pair, leg, result, steps, surprise in per mille.

    A surprise is -1 where nobody won.
    """
    names = [row["name"] for row in summary["table"]]
    index = {name: k for k, name in enumerate(names)}
    shown = sorted(matches, key=lambda m: (m.id not in recording.games, m.fault is None))[:_MOST_GAMES]
    seatings: dict[Any, int] = {}
    results: dict[Any, int] = {}
    rows = []
    for match in shown:
        seating = seatings.setdefault((match.pairing, match.entrants), len(seatings))
        result = results.setdefault((match.ranks, match.ended), len(results))
        rare = surprises[match.id]
        rows.append([seating, match.pair, match.leg, result, match.steps, -1 if rare is None else round(1000 * rare)])
    seats = list(matches[0].seats) if matches else []
    labels = {role: members[0] for role, members in roles_of(tuple(seats)).items()} if seats else {}
    decisive = [k for k, m in enumerate(shown) if m.id in recording.games and rows[k][5] >= 0]
    return {
        "summary": summary,
        "folder": tournament.path.name,
        "dir": str(tournament.path),
        "settings": {key: getattr(tournament, key) for key in ("pairs", "rounds", "seed", "opening", "params")},
        "specs": {each.name: each.spec for each in tournament.entrants},
        "made": f"rl-lab {versions()['rl-lab'] or ''}".strip(),
        "names": names,
        "seats": seats,
        "seatOf": {**labels, **{seat: k for k, seat in enumerate(seats)}},
        "seatings": [[[index[x] for x in pairing], [index[x] for x in who]] for pairing, who in seatings],
        "results": [[list(ranks), ended] for ranks, ended in results],
        "rows": rows,
        "unlisted": len(matches) - len(shown),
        "faults": [
            [match.id, match.fault.entrant, match.seats[match.fault.seat], match.fault.kind, match.fault.reason]
            for match in matches
            if match.fault
        ][:_MOST_FAULTS],
        "notable": sorted(decisive, key=lambda k: -rows[k][5])[:_MOST_NOTABLE],
        "watch": {k: recording.games[m.id] for k, m in enumerate(shown) if m.id in recording.games},
        "missing": recording.missing,
        "shapes": [json.loads(shape) for shape in recording.shapes],
        "fps": _frames_per_second(tournament),
    }


def _frames_per_second(tournament: Tournament) -> int:
    from .. import batch

    worlds = batch.make(tournament.world, 1, tournament.params, threads=1)
    worlds.close()
    return worlds.world.frames_per_second


def _page(data: dict[str, Any]) -> str:
    """Return the page. Data is JSON whose text can end no element, and goes into the page as text alone."""
    said = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        said = said.replace(character, f"\\u{ord(character):04x}")
    files = resources.files(__package__) / "page"
    page, style, script = ((files / name).read_text() for name in ("page.html", "page.css", "page.js"))
    title = html.escape(f"{data['summary']['world']} tournament {data['folder']}")
    parts = {"TITLE": title, "STYLE": style, "SCRIPT": script, "DATA": said}
    for key, value in parts.items():
        page = page.replace(f"<!--{key}-->", value, 1)
    return page
