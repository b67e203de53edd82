"""Leagues, and PPO against fixed opponents, reach exactly calculated values; leagues resume; self-play is fast."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.agents import random_agent
from support.game_tree import Layer, build_layers, expected_values, initial_state, uniform
from support.leagues import league_files

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.games.best_response import expected_returns, nash_conv
from rl_lab.games.tabular_policy import average
from rl_lab.league.average_policy import AveragePolicyAgent
from rl_lab.league.batched_policies import layers_of, stack_policies
from rl_lab.league.league import League
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Seat, value of the best response to uniformly random play in the other seat (by Bellman's equation over the whole
# game), and how far below it a learner may end.
BEST_RESPONSE_VALUES = [(0, 191 / 192, 0.01), (1, 874 / 945, 0.02)]
PPO: dict[str, Any] = {"n_steps": 32, "batch_size": 2048, "n_epochs": 4, "gamma": 1.0, "gae_lambda": 1.0}
PPO |= {"learning_rate": 3e-3, "learning_rate_schedule": "linear", "ent_coef": 0.03}
PPO |= {"net_arch": [128, 128], "activation": "relu"}


@pytest.mark.parametrize("seed", [0, 1])
def test_ppo_finds_the_best_response_to_random_play_at_tic_tac_toe(seed: int) -> None:
    world, module = world_registry.load("tic_tac_toe"), agent_registry.load("ppo")
    tree = build_layers(world, initial_state(world), position_fields=("marks", "to_move"))
    envs = OpponentsWrapper(make.make("tic_tac_toe", 256, seed=seed), [random_agent(world, seed)], seed=seed)
    learner = module.learner(module.Config(**PPO), envs, budget=2_000_000, seed=seed, device="cpu")
    while learner.steps < 2_000_000:
        learner.train_iteration()
    agent = learner.agent()
    for seat, best, tolerance in BEST_RESPONSE_VALUES:

        def policy(layer: Layer, seat: int = seat) -> Array:
            if layer.mover[0] != seat:
                return uniform(layer)
            rows = np.arange(len(layer.states)) * 2 + seat
            actions, _ = agent.act(layer.observations[:, seat], action_mask=layer.action_mask, rows=rows)
            return np.eye(9)[actions]

        value = expected_values(tree, policy)[0, seat]
        assert best - tolerance <= value <= best + 1e-9, (seat, value)


def test_the_average_policy_of_kuhn_poker_is_hardly_exploitable() -> None:
    """The league plays half against itself, half against all snapshots with equal probability: fictitious play."""
    learner, _ = make_learner(compose("kuhn_poker_league"))
    assert isinstance(learner, League)
    while learner.steps < 800_000:
        learner.train_iteration()
    spec = learner.learners[0].envs.world
    layers = [layers_of(snapshot.state_dict.tensors, learner.settings, spec) for snapshot in learner.pool.snapshots]
    policies = AveragePolicyAgent(
        "average", stack_policies("tanh", [each for each in layers if each]), len(layers)
    ).policy_functions()
    assert nash_conv(policies[0], "kuhn_poker") > 0.3, "it has something to learn"
    mean = average(policies, "kuhn_poker")
    assert nash_conv(mean, "kuhn_poker") < 0.1
    assert expected_returns(mean, mean, "kuhn_poker")[0] == pytest.approx(-1 / 18, abs=0.05)


def test_a_league_killed_at_any_moment_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    text = "world: tic_tac_toe\nbudget: 24_000\nworlds: 8\nvideo: false\ncheckpoint: {steps: 500}\n"
    text += "agent: {name: ppo, n_steps: 8, batch_size: 32, n_epochs: 2}\n"
    text += "evaluation: {episodes: 4, selections: 9, selection_episodes: 4}\n"
    text += "league: {freeze_every: 700, max_opponents: 2, random_opening_moves: 2, reset_prob: 0.5, anchors: [random],"
    text += " members: {main: 1, main_exploiter: 1, league_exploiter: 1}}\n"
    (tmp_path / "mine.yaml").write_text(text)

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "rl_lab.cli", *words]

    whole, part, kills, generator = tmp_path / "whole", tmp_path / "part", 0, random.Random(5)
    subprocess.run(command("train", str(tmp_path / "mine.yaml"), f"run_dir={whole}"), check=True, capture_output=True)
    words = command("train", str(tmp_path / "mine.yaml"), f"run_dir={part}")
    for _ in range(30):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while kills == 0 and not (part / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        try:
            _, errors = process.communicate(timeout=generator.uniform(0, 1) if kills == 0 else 3 + 2 * kills)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills, words = kills + 1, command("resume", str(part))
            continue
        assert process.returncode == 0, errors
        break
    assert kills > 0
    newest = sorted((whole / "checkpoints").iterdir())[-1].name
    final_files = [
        {name: data for name, data in league_files(folder).items() if "checkpoints" not in name or newest in name}
        for folder in (whole, part)
    ]
    assert final_files[0] == final_files[1]


def test_self_play_costs_little_more_than_one_fixed_opponent() -> None:
    """Processor time per step of training, against one opponent and against a pool of many snapshots of it."""
    settings = "worlds=64 budget=10_000_000 agent.n_steps=64 agent.batch_size=512 agent.n_epochs=4".split()
    common = "lost_to_share: 0, max_opponents: 4, selection: uniform"
    one_opponent, many_opponents = (
        f"self_play: 1, freeze_every: 10_000_000, {common}",
        f"self_play: 0.35, freeze_every: 4096, {common}",
    )
    learners = [
        make_learner(compose("connect_four", [*settings, f"league={{{words}}}"]))[0]
        for words in (one_opponent, many_opponents)
    ]
    times: list[list[float]] = [[], []]
    for rounds in range(40):
        for learner, learner_times in zip(learners, times, strict=True):
            begin, before = time.process_time(), learner.steps
            learner.train_iteration()
            if rounds >= 10:
                learner_times.append((time.process_time() - begin) / (learner.steps - before))
    one, several = map(statistics.median, times)
    assert several <= 1.3 * one, f"{1e6 * several:.1f} us a step, {1e6 * one:.1f} against one"
