"""The page of a report: one offline file without a script, with the curves and the tables."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from rl_lab.transfer.plot import curves_svg
from rl_lab.transfer.report import FRACTIONS, LEDGERS, estimate_text, speed_text, steps_text

_LEDGER_TITLES = {"online": "Online steps", "all_in": "All-in: with the steps of the data and of the pretraining"}


def html_page(report: Mapping[str, Any]) -> str:
    """Return the page as HTML. All names and texts of the report are escaped."""
    goal = report["goal"]
    title = f"What a backbone is worth: {report['scenario']}"
    body = [f"<h1>{html.escape(title)}</h1>", f'<p class="soft">{html.escape(_subtitle(report))}</p>']
    curves = curves_svg(report, 1120, 460, 190, "broad") + curves_svg(report, 380, 340, 140, "narrow")
    dotted = f"The dotted line is the reference, {goal['reference']:g}: {goal['source']}. Bands are 95 % intervals."
    body.append(_section("Return in the course of training", dotted, curves, _curve_table(report)))
    body.append(_section("Difference from training from scratch", "", _gap_table(report)))
    for ledger in LEDGERS:
        body.append(_section(_LEDGER_TITLES[ledger], _goal_text(goal), _steps_table(report, ledger)))
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in report["notes"])
    body.append(f"<section><h2>How to read this</h2>{notes}</section>")
    files = resources.files("rl_lab.transfer") / "page"
    text = (files / "page.html").read_text()
    parts = {"TITLE": html.escape(title), "STYLE": (files / "page.css").read_text(), "BODY": "\n".join(body)}
    for key, value in parts.items():
        text = text.replace(f"<!--{key}-->", value, 1)
    return text


def _subtitle(report: Mapping[str, Any]) -> str:
    backbone = report.get("backbone")
    of = f"; backbone {backbone['kind']} {backbone['sha256'][:12]}" if backbone else ""
    return (
        f"{report['agent']} in {report['world']}, {report['budget']:,} steps, {report['seeds']} seeds for each arm{of}"
    )


def _goal_text(goal: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{share} is {score:.4g}" for share, score in goal["scores"].items())
    return f"Steps until a measurement reaches a share of the reference: {shares}."


def _section(title: str, text: str, *content: str) -> str:
    paragraph = f"<p>{html.escape(text)}</p>" if text else ""
    return f"<section><h2>{html.escape(title)}</h2>{paragraph}{''.join(content)}</section>"


def _table(header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Return a table; each row has the number of its colour, and its cells, of which the first is a name."""
    heads = "".join(f"<th{' class=name' if k == 0 else ''}>{html.escape(cell)}</th>" for k, cell in enumerate(header))
    lines = []
    for colour, (name, *cells) in rows:
        swatch = f'<span class="swatch" style="background:var(--arm{colour})"></span>'
        first = f'<th class="name">{swatch}{html.escape(name)}</th>'
        lines.append(f"<tr>{first}{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _curve_table(report: Mapping[str, Any]) -> str:
    rows: list[tuple[int, Sequence[str]]] = []
    for index, arm in enumerate(report["arms"]):
        figures = [arm["start"], *arm["curve"], arm["kept_agent"]]
        rows.append((index, [arm["label"], *(estimate_text(figure) for figure in figures)]))
    if (cloning := report["cloning"]) is not None:
        figure = estimate_text({"iqm": cloning["mean_return"], "ci95": cloning["ci95"]})
        rows.append((len(report["arms"]), ["cloning alone", figure, *["-"] * (len(FRACTIONS) + 1)]))
    header = ["IQM (95 % interval)", "before", *(f"at {fraction:.0%}" for fraction in FRACTIONS), "kept agent"]
    return _table(header, rows)


def _gap_table(report: Mapping[str, Any]) -> str:
    rows: list[tuple[int, Sequence[str]]] = [
        (index, [arm["label"], *(estimate_text(arm[key]) for key in ("jump_start", "dip", "final_gap"))])
        for index, arm in enumerate(report["arms"])
    ]
    return _table(["arm", "jump-start", "dip", "final gap"], rows)


def _steps_table(report: Mapping[str, Any], ledger: str) -> str:
    shares = list(report["goal"]["scores"])
    header = ["arm", "steps before", *(cell for s in shares for cell in (f"steps to {s}", "seeds", "speed-up"))]
    rows: list[tuple[int, Sequence[str]]] = []
    for index, arm in enumerate(report["arms"]):
        cells = [arm["label"], f"{arm['steps_before']:,}" if ledger == "all_in" else "0"]
        for share in shares:
            steps = arm["steps_to"][ledger][share]
            speed = arm["speed_up"][ledger][share] if arm["speed_up"] else None
            cells += [steps_text(steps), f"{steps['reached']} of {steps['seeds']}", speed_text(speed)]
        rows.append((index, cells))
    return _table(header, rows)
