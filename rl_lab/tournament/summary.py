"""What a tournament's matches say: ratings, tables and game theory, and on top of it what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..names import UsageError, one_line
from ..rating import tables
from ..world import roles_of
from .folder import Tournament
from .ledger import Match

_FEW = 0.25  # of the games, different ones, below which it is said
_MOST_SEATS = 6  # columns of a terminal's table; the rest is in the JSON


def summary(
    tournament: Tournament, matches: Sequence[Match], total: int, *, anchor: str = "", intervals: str = "sandwich"
) -> dict[str, Any]:
    """Return everything about these of `total` matches, ready for JSON; see `rating.tables` for its tables.

    `anchor` is `NAME`, or `NAME=ELO`. Nothing depends on the order of the matches. Raises UsageError for an anchor that
    did not play, and for entrants in groups that never met, naming the groups.
    """
    played = {each for match in matches for each in match.pairing}
    name, elo = (anchor, 0.0) if anchor in played else _anchor(anchor)
    forfeits = Counter(match.fault.entrant for match in matches if match.fault)
    found: dict[str, Any] = {
        "dir": str(tournament.path),
        "world": tournament.world,
        "schedule": tournament.schedule,
        "matches": len(matches),
        "missing": max(total - len(matches), 0),
        "complete": len(matches) >= total,
        "different": len({(match.entrants, match.trace) for match in matches}),
        "faults": sum(forfeits.values()),
        "forfeits": dict(sorted(forfeits.items())),
        "unplayed": [each.name for each in tournament.entrants if each.name not in played],
        "anchor": {"name": name, "elo": elo} if name else None,
        "confidence": 0.95,
    }
    if not matches:
        return found | dict.fromkeys(("table", "cross_table"), []) | dict.fromkeys(("effects", "theory", "superiority"))
    try:
        rated = tables.rate(matches, anchor=name or None, anchor_elo=elo, intervals=intervals)
    except ValueError as error:
        done = f"{len(matches):,} of {total:,} matches were played"
        raise UsageError(f"{tournament.path}: {one_line(error)} ({done})") from None
    rows = tables.ranking(matches, ratings=rated)
    names, roles = [row["name"] for row in rows], roles_of(matches[0].seats)
    return found | {
        "table": [row | {"seats": _by_role(row["seats"], matches[0].seats, roles)} for row in rows],
        "effects": tables.effects(rated),
        "cross_table": tables.cross_table(matches, names),
        "superiority": tables.superiority(rated),
        "theory": tables.theory(matches, names),
    }


def _anchor(text: str) -> tuple[str, float]:
    """Return whom ratings are anchored at, "" for nobody, and the rating."""
    name, equals, value = text.rpartition("=")
    try:
        number = float(value) if equals else 0.0
        if abs(number) < 1e6:
            return (name if equals else text), number
    except ValueError:
        pass
    raise UsageError(f"--anchor {text}: expected NAME, or NAME=ELO")


def _by_role(split: list[Any], seats: Sequence[str], roles: dict[str, tuple[int, ...]]) -> list[Any]:
    """Return the split by seat, or by role where there are several: whoever has one of its seats has them all."""
    if len(roles) == 1:
        return split
    first = {seats[members[0]]: role for role, members in roles.items()}
    return [each | {"seat": first[each["seat"]]} for each in split if each["seat"] in first]


def text(found: dict[str, Any]) -> str:
    """Return a summary as text for a terminal."""
    lines, rows = [], found["table"]
    total = found["matches"] + found["missing"]
    if found["complete"]:
        lines.append(f"{found['world']}: all {total:,} matches of the schedule ({found['schedule']}) were played")
    else:
        lines.append(f"INCOMPLETE: {found['matches']:,} of {total:,} matches were played")
    if found["unplayed"]:
        lines.append(f"not played yet: {', '.join(found['unplayed'])}")
    if found["faults"]:
        who = ", ".join(f"{name} {count:,}" for name, count in found["forfeits"].items())
        lines.append(f"FORFEITS: {found['faults']:,} matches, lost by {who}")
    else:
        lines.append("no forfeits")
    if not rows:
        return "\n".join([*lines, "no matches"])
    if found["different"] < _FEW * found["matches"]:
        lines.append(f"only {found['different']:,} different games: who draws nothing repeats itself; see --opening")
    few = [row | {"seats": row["seats"] if len(row["seats"]) <= _MOST_SEATS else []} for row in rows]
    lines += ["", tables.render(few, found["confidence"]), f"  {_scale(found)}"]
    lines += ["", "score in percent, rows against columns", tables.render_cross(found["cross_table"])]
    return "\n".join([*lines, "", *_theory(found["theory"])])


def _scale(found: dict[str, Any]) -> str:
    anchor, seat, draw = found["anchor"], (found["effects"] or {}).get("seat"), (found["effects"] or {}).get("draw")
    said = [f"Elo, {anchor['name']} is {anchor['elo']:g}" if anchor else "Elo, the mean is 0"]
    if seat:
        said.append(f"the first seat is worth {seat['value']:+.0f} ({seat['low']:+.0f} to {seat['high']:+.0f})")
    if draw:
        said.append(f"between equals a draw is {draw['value']:.2g} times as likely as a win")
    return "; ".join(said)


def _theory(theory: dict[str, Any]) -> list[str]:
    """Return what game theory says: a line an entrant, and what holds of all."""
    lines, width = ["game theory of the cross table"], max(map(len, theory["names"]))
    for k, name in enumerate(theory["names"]):
        worst, parts = theory["worst"][k], [f"  {name:<{width}}"]
        if theory["nash"] is not None:
            parts.append(f"alpha-rank {theory['alpha_rank'][k]:6.1%}  Nash {theory['nash'][k]:6.1%}")
        if worst:
            parts.append(f"least against {worst['opponent']} ({worst['score']:.1%})")
        lines.append("  ".join(parts))
    if theory["missing"]:
        lines.append(f"{theory['missing']:,} pairings never met, so there is no alpha-rank, Nash or Smith set")
    elif theory["condorcet"]:
        lines.append(f"{theory['condorcet']} scores above one half against everybody (Condorcet winner)")
    else:
        lines.append(f"nobody beats everybody; each of the Smith set beats all outside: {', '.join(theory['smith'])}")
    return [*lines, f"cyclic share {theory['cyclic_share']:.1%}: what no rating explains, chance included"]
