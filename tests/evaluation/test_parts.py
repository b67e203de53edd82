"""Tests that the episodes of an evaluation are the same bit for bit where its environments are divided into parts."""

from __future__ import annotations

from typing import Any

import pytest

from rl_lab.core import agent_registry
from rl_lab.engine import world_registry
from rl_lab.evaluation.episodes import EpisodePlan, can_be_divided, play_part
from rl_lab.evaluation.evaluate import EVALUATION_SEED, assemble


def make_agent(name: str, **settings: Any) -> Any:
    factory = agent_registry.load(name)
    return factory.make(factory.Config(**settings), world_registry.load("tic_tac_toe"))


@pytest.mark.parametrize("name", ["mcts", "minimax", "scripted"])
@pytest.mark.parametrize("parts", [3, 100])
def test_an_evaluation_played_in_parts_equals_one_played_at_once(name: str, parts: int) -> None:
    first = make_agent(name, **({"simulations": 20} if name == "mcts" else {}))
    second = make_agent("minimax", depth=1)
    modes = {"deterministic": name != "mcts", "opponent_deterministic": True}
    plan = EpisodePlan("tic_tac_toe", {}, 50, EVALUATION_SEED, num_envs=16, **modes)
    assert can_be_divided(plan, first, second)
    undivided = assemble(plan, [play_part(plan, first, second)], first, second)
    pieces = [play_part(plan, first, second, env_indices) for env_indices in reversed(plan.divide(parts))]
    assert len(pieces) == min(parts, 16)
    divided = assemble(plan, pieces, first, second)
    assert divided == undivided
    pairs = zip(divided.episodes, undivided.episodes, strict=True)
    assert all(one.actions.tobytes() == other.actions.tobytes() for one, other in pairs)


def test_agents_with_one_random_generator_for_all_rows_cannot_be_divided() -> None:
    modes = {"deterministic": True, "opponent_deterministic": True}
    plan = EpisodePlan("tic_tac_toe", {}, 50, EVALUATION_SEED, **modes)
    assert not can_be_divided(plan, make_agent("random"), None)
    assert not can_be_divided(plan, make_agent("minimax"), make_agent("random"))
