"""Parts of an evaluation have its bits where the agents say that their actions depend on one row alone."""

from __future__ import annotations

from typing import Any

import pytest

from rl_lab.core import agent_registry
from rl_lab.engine import world_registry
from rl_lab.evaluation.episodes import EpisodePlan, can_be_divided, play_part
from rl_lab.evaluation.evaluate import EVALUATION_SEED, assemble


def agent(name: str, **settings: Any) -> Any:
    factory = agent_registry.load(name)
    return factory.make(factory.Config(**settings), world_registry.load("tic_tac_toe"))


@pytest.mark.parametrize("name", ["mcts", "minimax", "scripted"])
@pytest.mark.parametrize("parts", [3, 100])
def test_parts_are_the_whole(name: str, parts: int) -> None:
    first, second = agent(name, **({"simulations": 20} if name == "mcts" else {})), agent("minimax", depth=1)
    modes = {"deterministic": name != "mcts", "opponent_deterministic": True}
    plan = EpisodePlan("tic_tac_toe", {}, 50, EVALUATION_SEED, num_envs=16, **modes)
    assert can_be_divided(plan, first, second)
    whole = assemble(plan, [play_part(plan, first, second)], first, second)
    pieces = [play_part(plan, first, second, columns) for columns in reversed(plan.columns(parts))]
    assert len(pieces) == min(parts, 16)
    divided = assemble(plan, pieces, first, second)
    assert divided == whole
    pairs = zip(divided.episodes, whole.episodes, strict=True)
    assert all(one.actions.tobytes() == other.actions.tobytes() for one, other in pairs)


def test_agents_that_draw_for_the_batch_are_not_divided() -> None:
    modes = {"deterministic": True, "opponent_deterministic": True}
    plan = EpisodePlan("tic_tac_toe", {}, 50, EVALUATION_SEED, **modes)
    assert not can_be_divided(plan, agent("random"), None)
    assert not can_be_divided(plan, agent("minimax"), agent("random"))
