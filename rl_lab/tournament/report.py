"""Write `report.html`: one offline file with a tournament's tables, its list of matches, and replays of games."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rl_lab.core.agent_spaces import roles_of
from rl_lab.core.files import atomic_write_bytes
from rl_lab.experiments.run_record import versions
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.replay_frames import Recording, record
from rl_lab.tournament.store import Tournament

NAME = "report.html"
_MAX_GAMES = 100_000  # number of listed games
_MAX_FAULTS, _MAX_NOTABLE = 100, 100


def write(
    tournament: Tournament,
    matches: Sequence[Match],
    summary: dict[str, Any],
    *,
    games: int = 200,
    code: bool = False,
) -> tuple[Path, Recording]:
    """Write the report of a `summary.summary` into the tournament's folder, with replays of `games` games.

    The replays are one game for each pairing, seating and result, and then further games, upsets first. With `code`,
    entrants that are user code are run.
    """
    elo = {row["name"]: row["rating"] for row in summary["table"]}
    surprises = {match.id: surprise(match, elo) for match in matches}
    recording = record(tournament, select_games(matches, surprises, games), code=code)
    data = _data(tournament, matches, summary, surprises, recording)
    path = tournament.path / NAME
    atomic_write_bytes(path, _page(data).encode())
    return path, recording


def surprise(match: Match, elo: dict[str, float]) -> float | None:
    """Return the probability by the ratings that the winner would lose, averaged over its opponents.

    Return None for a match without a single winner.
    """
    best = [name for name in match.pairing if match.rank(name) == 1]
    if len(best) != 1 or len(match.pairing) < 2:
        return None
    others = [elo[name] for name in match.pairing if name != best[0]]
    return sum(1 / (1 + 10 ** ((elo[best[0]] - other) / 400)) for other in others) / len(others)


def select_games(matches: Sequence[Match], surprises: dict[str, float | None], count: int) -> list[Match]:
    """Return `count` matches for replays, none of which ended by forfeit.

    The most surprising match of each pairing, seating and result comes first, then the other matches. Matches with the
    same actions as an earlier one come last.
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
    """Return the data of the page.

    Games are rows of numbers: seating, pair, leg, result, steps, surprise in per mille, which is -1 without a winner.
    """
    names = [row["name"] for row in summary["table"]]
    index = {name: k for k, name in enumerate(names)}
    listed = sorted(matches, key=lambda m: (m.id not in recording.games, m.fault is None))[:_MAX_GAMES]
    seatings: dict[Any, int] = {}
    results: dict[Any, int] = {}
    rows = []
    for match in listed:
        seating = seatings.setdefault((match.pairing, match.entrants), len(seatings))
        result = results.setdefault((match.ranks, match.ended), len(results))
        value = surprises[match.id]
        rows.append([seating, match.pair, match.leg, result, match.steps, -1 if value is None else round(1000 * value)])
    seats = list(matches[0].seats) if matches else []
    labels = {role: members[0] for role, members in roles_of(tuple(seats)).items()} if seats else {}
    decisive = [k for k, m in enumerate(listed) if m.id in recording.games and rows[k][5] >= 0]
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
        "seatings": [[[index[x] for x in pairing], [index[x] for x in entrants]] for pairing, entrants in seatings],
        "results": [[list(ranks), ended] for ranks, ended in results],
        "rows": rows,
        "unlisted": len(matches) - len(listed),
        "faults": _faults(matches),
        "notable": sorted(decisive, key=lambda k: -rows[k][5])[:_MAX_NOTABLE],
        "watch": {k: recording.games[m.id] for k, m in enumerate(listed) if m.id in recording.games},
        "missing": recording.missing,
        "shapes": [json.loads(shape) for shape in recording.shapes],
        "fps": _frames_per_second(tournament),
    }


def _faults(matches: Sequence[Match]) -> list[list[str]]:
    """Return rows of match, entrant, agent, kind and reason; at most _MAX_FAULTS for each entrant and kind."""
    rows, count = [], Counter[tuple[str, str]]()
    for match in matches:
        if (fault := match.fault) is not None and count[fault.entrant, fault.kind] < _MAX_FAULTS:
            rows.append([match.id, fault.entrant, match.seats[fault.seat], fault.kind, fault.reason])
            count[fault.entrant, fault.kind] += 1
    return rows


def _frames_per_second(tournament: Tournament) -> int:
    from rl_lab.adapters import make

    envs = make.make(tournament.world, 1, tournament.params, threads=1)
    envs.close()
    return envs.world.frames_per_second


def _page(data: dict[str, Any]) -> str:
    """Return the page as HTML. The characters <, > and & of the data are escaped, so that it cannot contain HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    files = resources.files(__package__) / "page"
    page, style, script = ((files / name).read_text() for name in ("page.html", "page.css", "page.js"))
    title = html.escape(f"{data['summary']['world']} tournament {data['folder']}")
    parts = {"TITLE": title, "STYLE": style, "SCRIPT": script, "DATA": text}
    for key, value in parts.items():
        page = page.replace(f"<!--{key}-->", value, 1)
    return page
