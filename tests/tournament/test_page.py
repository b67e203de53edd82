"""Tests of the report's layout at three widths in a browser, with many forfeits, and of its table of forfeits."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rl_lab.cli import main
from rl_lab.tournament.ledger import FAULT_KINDS, Fault
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create
from rl_lab.tournament.summary import render_summary, summarize

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = [*FAULT_KINDS, "black", "an_entrant_with_a_rather_long_name_indeed", *(f"random_{k}" for k in range(14))]
MEASURE = """<script>
const box = node => { const r = node.getBoundingClientRect(); return [r.left, r.right].map(Math.round); };
const all = query => [...document.querySelectorAll(query)].map(box);
document.querySelectorAll(".faults details")[0].open = true;
const write = found => document.body.append(
  Object.assign(document.createElement("pre"), {id: "measured", textContent: JSON.stringify(found)}));
setTimeout(() => write({
  width: innerWidth, page: document.documentElement.scrollWidth, height: document.body.scrollHeight,
  sections: all("section"), ratings: all(".board tbody td:nth-child(3) a"), cross: all(".cross .heat"),
  room: all(".cross .wide"), folds: document.querySelectorAll(".faults details").length,
  lines: document.querySelectorAll(".faults li").length}), 500);
</script></body>"""


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tournament_with_forfeits() -> tuple[Any, list[Any]]:
    """Return a tournament of twenty in which those that are called as kinds of faults are have lost by them."""
    words = [f"{name}=random:seed={k}" for k, name in enumerate(NAMES)]
    outcome = run_tournament(create(words, "tic_tac_toe", {}, path=Path("t"), pairs=2, seed=5))
    matches = []
    for match in outcome.matches:
        faulty_entrant = next((name for name in match.pairing if name in FAULT_KINDS), None)
        if faulty_entrant is not None:
            seat = match.entrants.index(faulty_entrant)
            fault = Fault(
                seat,
                faulty_entrant,
                FAULT_KINDS[match.pair - 1],
                f"reason of {faulty_entrant} in {match.id}" + " and so on" * 12,
            )
            ranks = tuple(1 + (k == seat) for k in range(2))
            match = dataclasses.replace(match, ending="forfeit", fault=fault, ranks=ranks)
        matches.append(match)
    outcome.tournament.ledger.write_text("".join(match.line() + "\n" for match in matches))
    return outcome.tournament, matches


def test_reasons_of_forfeits_are_told_in_the_terminal_under_headings() -> None:
    tournament, matches = tournament_with_forfeits()
    result = summarize(tournament, matches, len(matches))
    lost = sum(match.fault is not None for match in matches)
    assert sum(group["count"] for group in result["fault_groups"]) == lost == result["faults"] > 250
    lines = render_summary(result).splitlines()
    head = lines.index(f"FORFEITS: {lost} matches") + 1
    assert lines[head].split() == ["entrant", "fault", "matches", "reason", "of", "the", "first"]
    for line, group in zip(lines[head + 1 :], result["fault_groups"], strict=False):
        assert line.split()[:3] == [group["entrant"], group["kind"], str(group["count"])]
        assert f"reason of {group['entrant']} in " in line and len(line) < 140
    shuffled = summarize(tournament, matches[::-1], len(matches))
    assert shuffled["fault_groups"] == result["fault_groups"]


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_the_page_fits_a_desk_a_laptop_and_a_phone() -> None:
    tournament_with_forfeits()
    assert main(["tournament", "report", "t", "--games", "20"]) == 0
    page = Path("t/report.html").read_text()
    Path("t/measure.html").write_text(page.replace("</body>", MEASURE))
    for width in (1440, 1100, 390):
        words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=profile"]
        words += [f"--window-size={width},900", "--virtual-time-budget=3000", "--dump-dom"]
        address = Path("t/measure.html").resolve().as_uri()
        done = subprocess.run([*words, address], capture_output=True, text=True, timeout=120, check=True)
        result = json.loads(re.search(r'<pre id="measured">(.*?)</pre>', done.stdout)[1])  # type: ignore[index]
        assert result["page"] <= result["width"], "the page scrolls sideways"
        assert len(result["ratings"]) == len(NAMES)
        for left, right in (*result["sections"], *result["ratings"]):
            assert 0 <= left < right <= result["width"]
        if width > 1000:
            assert result["cross"][0][1] <= result["room"][0][1] + 1, "the cross table is cut"
        assert result["folds"] == 8 and 1 <= result["lines"] <= 11
        assert result["height"] < (6000 if width > 1000 else 8000)  # the fold that is open included
