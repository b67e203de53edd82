"""This module writes `report.html`: one offline file with a tournament's tables, its matches, and replays of games.

`write` is the entry point, for `rl-lab tournament report`. It plays some matches again (`replay_frames`), collects all
data of the page as JSON, and inserts it with the style and the script of the folder `page/` into `page.html`. The
script draws everything in the browser.
"""

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

FILE_NAME = "report.html"
_MAX_GAMES = 100_000  # that are listed
_MAX_FAULTS = 100  # that are listed, for each entrant and kind of fault
_MAX_DECISIVE = 100  # games with a replay and a single winner that are listed by their surprise


def write(
    tournament: Tournament,
    matches: Sequence[Match],
    summary: dict[str, Any],
    *,
    games: int = 200,
    code: bool = False,
) -> tuple[Path, Recording]:
    """Write the report of what `summary.summarize` returns into the tournament's folder; return its path.

    It has replays of up to `games` games: one for each pairing, seating and result, and then further games, the most
    surprising first. With `code`, entrants that are user code are run.
    """
    elo = {row["name"]: row["rating"] for row in summary["table"]}
    surprises = {match.id: surprise(match, elo) for match in matches}
    recording = record(tournament, select_games(matches, surprises, games), code=code)
    data = _data(tournament, matches, summary, surprises, recording)
    path = tournament.path / FILE_NAME
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
    seen_results, seen_games = set[Any](), set[Any]()
    new_results, new_games, copies = list[Match](), list[Match](), list[Match]()
    for match in order:
        result, game = (match.entrants, match.ranks), (match.entrants, match.trace)
        (new_results if result not in seen_results else new_games if game not in seen_games else copies).append(match)
        seen_results.add(result)
        seen_games.add(game)
    return [*new_results, *new_games, *copies][:count]


def _data(
    tournament: Tournament,
    matches: Sequence[Match],
    summary: dict[str, Any],
    surprises: dict[str, float | None],
    recording: Recording,
) -> dict[str, Any]:
    """Return the data of the page, which `page/page.js` reads.

    Games are `rows` of numbers: index in `seatings`, pair, leg, index in `results`, steps, surprise in per mille, which
    is -1 without a single winner. Other keys refer to games by their row number, and to entrants by their index in
    `names`.
    """
    names = [row["name"] for row in summary["table"]]
    index = {name: k for k, name in enumerate(names)}
    listed = sorted(matches, key=lambda m: (m.id not in recording.games, m.fault is None))[:_MAX_GAMES]
    seatings: dict[Any, int] = {}
    results: dict[Any, int] = {}
    rows = []
    for match in listed:
        seating = seatings.setdefault((match.pairing, match.entrants), len(seatings))
        result = results.setdefault((match.ranks, match.ending), len(results))
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
        "results": [[list(ranks), ending] for ranks, ending in results],
        "rows": rows,
        "unlisted": len(matches) - len(listed),
        "faults": _faults(matches),
        "notable": sorted(decisive, key=lambda k: -rows[k][5])[:_MAX_DECISIVE],
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
