"""The report's data and its page: what they say of known curves, and that no name becomes HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from rl_lab.experiments.compose import compose
from rl_lab.transfer import report
from rl_lab.transfer.arms import BACKBONE, SCRATCH
from rl_lab.transfer.html_page import html_page
from rl_lab.transfer.plot import spread, ticks
from rl_lab.transfer.report import ArmResult
from rl_lab.transfer.trainings import Training

STEPS = [100 * k for k in range(1, 21)]
HOSTILE = "<script>alert(1)</script>\"'&<!--BODY-->"


def training(seed: int, rate: float) -> Training:
    scores = [min(500.0, rate * steps) for steps in STEPS]
    return Training(seed, STEPS, scores, 0.0, scores[-1])


def made(label: str = "backbone", **options: Any) -> dict[str, Any]:
    """Return a report of 4 seeds: scratch reaches 500 at 2,000 steps, the backbone at 500; 1,000 steps of data."""
    scenario = compose("cartpole", ["budget=2000"])
    arms = [
        ArmResult(SCRATCH, "from scratch", [training(seed, 0.25) for seed in range(4)]),
        ArmResult(BACKBONE, label, [training(seed, 1.0) for seed in range(4)], 1000),
    ]
    cloning = {"mean_return": 100.0, "ci95": (90.0, 110.0)}
    return report.make_report(scenario, arms, cloning, **options)


def test_a_report_says_what_the_curves_are_made_of() -> None:
    result = made(reference=400.0)
    scratch, backbone = result["arms"]
    assert result["goal"]["scores"] == {"50%": 200.0, "75%": 300.0, "90%": 360.0}
    assert [point["iqm"] for point in scratch["curve"]] == [25.0, 50.0, 125.0, 250.0, 500.0]
    assert scratch["steps_to"]["online"]["50%"]["iqm"] == 800 and backbone["steps_to"]["online"]["50%"]["iqm"] == 200
    assert backbone["speed_up"]["online"]["50%"]["ratio"] == 4.0
    assert backbone["steps_to"]["all_in"]["50%"]["iqm"] == 1200
    assert backbone["speed_up"]["all_in"]["50%"]["ratio"] == pytest.approx(800 / 1200)
    assert backbone["final_gap"]["iqm"] == 0.0 and scratch["final_gap"] is None
    assert json.loads(json.dumps(result, allow_nan=False))["seeds"] == 4
    assert "4.00x" in report.text(result) and "cloning alone" in report.text(result)


def test_the_reference_is_what_the_scenario_expects_unless_it_is_given() -> None:
    assert made()["goal"]["reference"] == 475


def test_where_nothing_was_learned_there_is_a_report_without_steps_to_a_score() -> None:
    idle = Training(0, [500, 1000], [0.0, 0.0], 0.0, 0.0)
    scenario = compose("freeway", ["budget=1000"])
    result = report.make_report(scenario, [ArmResult(SCRATCH, "from scratch", [idle])], None)
    assert result["goal"]["scores"] == {} and "set reference=" in report.text(result)
    assert "from scratch" in html_page(result)


def test_shares_of_a_negative_reference_are_counted_from_untrained_agents() -> None:
    scenario = compose("pendulum", ["budget=1000"])
    falls = Training(0, [500, 1000], [-600.0, -200.0], -1200.0, -200.0)
    result = report.make_report(scenario, [ArmResult(SCRATCH, "from scratch", [falls])], None, reference=-200.0)
    assert result["goal"]["floor"] == -1200.0 and result["goal"]["scores"]["50%"] == -700.0


class _Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_no_name_becomes_html_and_the_page_loads_nothing() -> None:
    result = made(HOSTILE) | {"scenario": HOSTILE, "world": HOSTILE, "agent": HOSTILE, "notes": [HOSTILE]}
    result["backbone"] = {"kind": HOSTILE, "sha256": HOSTILE}
    result["goal"]["source"] = HOSTILE
    page = html_page(result)
    tags = _Tags(page).tags
    assert "script" not in {tag for tag, _ in tags} and page.count("</html>") == 1
    for _, attributes in tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert attributes.get("href", "data:,") == "data:,"
    policy = next(a for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")["content"]
    assert policy is not None and "default-src 'none'" in policy and "script-src" not in policy
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page and "url(" not in page


def test_the_curves_are_wellformed_and_each_arm_has_its_colour_and_name() -> None:
    page = html_page(made())
    svgs = [f"<svg{part.partition('</svg>')[0]}</svg>" for part in page.split("<svg")[1:]]
    assert len(svgs) == 2  # for wide and for narrow screens
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        names = [e.text for e in root.iter("text") if e.get("class") == "end"]
        assert names == ["from scratch", "backbone", "cloning alone"]
        colours = {e.get("style") for e in root.iter("path") if e.get("class") == "line"}
        assert colours == {"stroke:var(--arm0)", "stroke:var(--arm1)"}


def test_names_at_the_ends_of_curves_do_not_overlap() -> None:
    moved = spread([100.0, 100.0, 99.0, 300.0], 17.0, 0.0, 300.0)
    ordered = sorted(moved)
    assert all(b - a >= 17.0 for a, b in zip(ordered, ordered[1:], strict=False)) and ordered[-1] <= 300.0


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.04, 0.99), (-1500.0, -100.0), (0.0, 500.0), (3.0, 3.001)])
def test_ticks_are_few_and_lie_in_the_range(low: float, high: float) -> None:
    values = ticks(low, high)
    assert 2 <= len(values) <= 6 and all(low - 1e-9 <= value <= high + 1e-9 for value in values)
