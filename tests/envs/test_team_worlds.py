"""These tests check the worlds arena and junction against geometry that is computed in another, slower way."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from rl_lab.envs import _arena as arena
from rl_lab.envs import _junction as junction

from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.record import PlainRecord, f4
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

RED = np.array([True, False, True, False])


def make_batch(name: str, n: int, **params: float) -> Batch:
    """A batch whose worlds stop where their first episode ends."""
    world = world_registry.load(name)
    batch = Batch(world, n, world.Params(**params), seed=3, threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    return batch


def advance(batch: Batch, strength: str) -> None:
    if strength == "chance":
        write_uniform_actions(batch, np.random.default_rng(int(batch.states["t"].sum())).random(batch.actions.shape))
    else:
        batch.scripted_actions(strength)
    batch.step()


# Arena


def crosses(walls: Array, a: Array, b: Array, margin: float) -> bool:
    """Whether one of 2,000 points between a and b lies in a wall that is thicker by a margin."""
    points = a + np.linspace(0, 1, 2000)[:, None] * (b - a)
    return bool((abs(points[:, None] - walls[:, :2]) < walls[:, 2:] + margin).all(axis=-1).any())


def test_walls_block_the_line_of_sight_and_it_is_the_same_from_both_ends() -> None:
    batch, rng, blocked = make_batch("arena", 30), np.random.default_rng(0), 0
    for row in batch.states:
        walls, s = row["walls"].astype(np.float64), PlainRecord(row)
        assert np.array_equal(walls[:4, :2], -walls[4:, :2]) and np.array_equal(walls[:4, 2:], walls[4:, 2:])
        for _ in range(20):
            a, b = rng.uniform((-8, -6), (8, 6), (2, 2)).astype(np.float32)
            ends = [[f4(each) for each in point] for point in (a, b)]
            clear = arena.has_line_of_sight(s, *ends[0], *ends[1])
            assert clear == arena.has_line_of_sight(s, *ends[1], *ends[0])
            assert not clear or not crosses(walls, a, b, -0.01)
            assert clear or crosses(walls, a, b, 0.01)
            blocked += not clear
    assert 200 < blocked < 550


def test_no_agent_starts_in_a_wall_or_walks_into_one() -> None:
    batch = make_batch("arena", 60)
    for _ in range(60):
        advance(batch, "chance")
        at, walls = batch.states["body"][:, :, None, :2], batch.states["walls"][:, None]
        gap = (abs(at - walls[..., :2]) - walls[..., 2:]).max(axis=-1)
        assert gap.min() >= arena.RADIUS - 1e-5
        assert (abs(at) <= np.array([8, 6]) - arena.RADIUS + 1e-5).all()


@pytest.mark.parametrize("strength", ["chance", "expert"])
def test_shots_cost_a_round_and_hit_only_opponents_in_view(strength: str) -> None:
    batch, hits, shots = make_batch("arena", 60), 0, 0
    for _ in range(120):
        before = {name: batch.states[name].copy() for name in ("counters", "alive")}
        ended, active = batch.done.copy(), batch.acting.copy()
        advance(batch, strength)
        s = batch.states
        shooting = active & (batch.actions == arena.SHOOT)
        spent = before["counters"][..., arena.ROUNDS] - s["counters"][..., arena.ROUNDS]
        assert (spent[shooting] == 1).all() and (spent[~shooting & active] <= 0).all()
        assert s["counters"].min() >= 0
        hurt = np.zeros((60, 4), int)
        for i, a in np.argwhere(shooting):
            ends = s["body"][i, a, [arena.SHOT_END_X, arena.SHOT_END_Y]]
            at, heading = s["body"][i, a, :2].astype(float), s["body"][i, a, [arena.AHEAD_X, arena.AHEAD_Y]]
            victims = [b for b in range(4) if before["alive"][i, b] and np.array_equal(s["body"][i, b, :2], ends)]
            shots += 1
            for b in victims:
                away = ends - at
                assert (a - b) % 2, "hit its own mate"
                assert np.linalg.norm(away) <= 8.001 and away @ heading > 0.96 * np.linalg.norm(away)
                assert not crosses(s["walls"][i].astype(float), at, ends.astype(float), -0.01)
                hurt[i, b] += 1
            hits += len(victims)
        going = ~ended
        assert np.array_equal(hurt[going], s["counters"][going][..., arena.HITS_TAKEN])
        taken = before["counters"][..., arena.HEALTH] - s["counters"][..., arena.HEALTH]
        assert np.array_equal(taken[going], np.minimum(hurt, before["counters"][..., arena.HEALTH])[going])
        out = before["alive"].astype(int) - s["alive"]
        assert np.array_equal(s["alive"][going] == 0, s["counters"][going][..., arena.HEALTH] == 0)
        gain = 0.1 * (taken[:, ~RED].sum(1) - taken[:, RED].sum(1)) + 0.5 * (out[:, ~RED].sum(1) - out[:, RED].sum(1))
        rewards = np.where(RED, gain[:, None], -gain[:, None])
        assert np.allclose(batch.rewards[going], rewards[going], atol=1e-6) and (batch.rewards.sum(1) == 0).all()
        assert np.array_equal(batch.left_episode[going], (active & (s["alive"] == 0))[going])
        assert not (batch.acting & (s["alive"] == 0)).any()
        down = ~(s["alive"][:, RED].any(1) & s["alive"][:, ~RED].any(1))
        assert np.array_equal(batch.terminated[going], down[going])
    assert shots > 60 and (hits > 0.8 * shots) == (strength == "expert") and hits > 0


def test_rounds_come_from_somewhere() -> None:
    """A fighter never owns more rounds than before but beside a crate, and reloading gives what it takes."""
    batch, crates = make_batch("arena", 60), 0
    for _ in range(100):
        before, away = batch.states["counters"].copy(), batch.states["crate_wait"].copy()
        advance(batch, "expert")
        kit = batch.states["counters"]
        owned = kit[..., [arena.ROUNDS, arena.SPARE]].sum(-1) - before[..., [arena.ROUNDS, arena.SPARE]].sum(-1)
        opened = (away == 0) & (batch.states["crate_wait"] > 0)
        assert ((owned > 0).any(axis=1) == opened.any(axis=1)).all()
        assert kit[..., arena.ROUNDS].max() <= 6 and kit[..., arena.SPARE].max() <= 12
        crates += opened.sum()
    assert crates > 10


def test_fog_hides_what_the_team_does_not_see() -> None:
    """Moving an opponent that no agent sees changes nothing that is observed."""
    batch, hidden = make_batch("arena", 60), 0
    for _ in range(40):
        advance(batch, "expert")
        for i in np.flatnonzero(~batch.done):
            seen = batch.states["counters"][i, :, arena.SEES_MASK]
            for b in range(4):
                if any((seen[a] >> (b - a) % 4) & 1 for a in ((b + 1) % 4, (b + 3) % 4)):
                    continue
                place = batch.states["body"][i, b, :2].copy()
                batch.states["body"][i, b, :2] = (7.5, 5.5)
                watching, was = [(b + 1) % 4, (b + 3) % 4], batch.observations[i].copy()
                assert np.array_equal(batch.observe(i)[i, watching], was[watching])
                batch.states["body"][i, b, :2] = place
                batch.observe(i)
                hidden += 1
        if hidden > 1000:
            break
    assert hidden > 1000


# Junction


def outline(x: float, y: float, ux: float, uy: float, grow: float) -> Array:
    """Points [n, 2] all over a car."""
    u, v = np.meshgrid(np.linspace(-1, 1, 45) * (2.2 + grow), np.linspace(-1, 1, 21) * (0.95 + grow))
    return np.stack([x + u * ux - v * uy, y + u * uy + v * ux], axis=-1).reshape(-1, 2)


def overlap(a: Array, b: Array, grow: float) -> bool:
    """Whether a point of one car, drawn so much larger, lies in the other."""
    for one, (x, y, ux, uy) in ((a, b), (b, a)):
        away = outline(*one, grow) - (x, y)
        ahead, left = away @ (ux, uy), away @ (-uy, ux)
        if ((abs(ahead) < 2.2 + grow) & (abs(left) < 0.95 + grow)).any():
            return True
    return False


def poses(row: Array) -> Array:
    return np.stack([row[name] for name in ("x", "y", "ahead_x", "ahead_y")], axis=-1).astype(np.float64)


def test_as_many_cars_as_asked_for_start_apart_and_none_comes_later() -> None:
    for fewest, most in (4, 8), (1, 3), (8, 8), (1, 1):
        batch = make_batch("junction", 200, fewest=fewest, most=most)
        cars = batch.states["is_present"].sum(axis=1)
        assert set(cars) == set(range(fewest, most + 1))
        assert np.array_equal(batch.acting, batch.states["is_present"] == 1)
        for _ in range(30):
            before = batch.states["is_present"].copy()
            advance(batch, "chance")
            assert (batch.states["is_present"] <= before).all()
    for row in make_batch("junction", 100).states:
        s = PlainRecord(row)
        assert not any(
            junction.cars_touch(s, a, b) for a in range(8) for b in range(a) if row["is_present"][[a, b]].all()
        )


def test_cars_crash_where_they_overlap() -> None:
    batch, crashed = make_batch("junction", 60), 0
    for _ in range(40):
        here = batch.states["is_present"].copy()
        advance(batch, "novice")
        for i in np.flatnonzero(~batch.done | batch.terminated):
            row, at = batch.states[i], poses(batch.states[i])
            pairs = [(a, b) for a in range(8) for b in range(a) if here[i, a] and here[i, b]]
            near = [(a, b) for a, b in pairs if np.linalg.norm(at[a, :2] - at[b, :2]) < 5.5]
            surely, maybe = ({c for pair in near if overlap(*at[[*pair]], g) for c in pair} for g in (-0.05, 0.05))
            wrecks = set(np.flatnonzero((row["crash_step"] == row["t"]) & (here[i] == 1)).tolist())
            assert surely <= wrecks <= maybe
            crashed += len(wrecks)
    assert crashed > 60


def test_agents_that_arrive_or_crash_leave_and_are_counted() -> None:
    batch = make_batch("junction", 60, share=0.0)
    paid = np.zeros((60, 8))
    began = batch.states["is_present"].copy()
    length = (34 + 24 + np.array([5 * np.pi, 16, 3 * np.pi]))[batch.states["turn"]]
    start = batch.states["progress"].copy()
    while not batch.done.all():
        here, ended = batch.states["is_present"].copy(), batch.done.copy()
        advance(batch, "novice")
        s = batch.states
        left = (s["crash_step"] > 0) | (s["progress"] >= length - 1e-4)
        assert np.array_equal(s["is_present"], here & ~left)
        assert np.array_equal(batch.left_episode[~ended], ((here == 1) & left)[~ended])
        assert (batch.rewards[here == 0] == 0).all()
        paid += np.where(ended[:, None], 0, batch.rewards) + 0.01 * here  # but for the haste
    s, wrecked = batch.states, (batch.states["crash_step"] > 0)
    assert batch.drain_log() == {
        "episodes": 60.0,
        "arrived": ((began == 1) & ~wrecked).sum() / 60,
        "crashed": wrecked.sum() / 60,
    }
    expected = (s["progress"] - start) / length + np.where(wrecked, -6.0, 1.0)
    assert np.allclose(paid[began == 1], expected[began == 1], atol=1e-3)


def test_the_team_is_paid_the_same_however_it_shares() -> None:
    alone, shared = (make_batch("junction", 40, share=share) for share in (0.0, 1.0))
    for _ in range(40):
        here = alone.states["is_present"] == 1
        advance(alone, "novice")
        advance(shared, "novice")
        assert np.allclose(alone.rewards.sum(1), shared.rewards.sum(1), atol=1e-5)
        means = np.broadcast_to(alone.rewards.sum(1, keepdims=True) / here.sum(1, keepdims=True).clip(1), here.shape)
        assert np.allclose(shared.rewards[here], means[here], atol=1e-5) and (shared.rewards[~here] == 0).all()


def test_the_table_of_conflicts_is_what_the_ways_say() -> None:
    def path(road: int, turn: int) -> list[Array]:
        ways = np.arange(34 - 2, 34 + float(junction.crossing_length(turn)) + 2.2, 0.8)
        return [np.array(junction.pose(road, turn, f4(way)), float) for way in ways]

    for turn in range(3):
        for side in range(1, 4):
            for other in range(3):
                paths_conflict = any(
                    overlap(a, b, 0.1)
                    for a in path(0, turn)
                    for b in path(side, other)
                    if np.linalg.norm(a[:2] - b[:2]) < 5.5
                )
                assert paths_conflict <= (junction.CONFLICTS >> ((turn * 4 + side) * 3 + other)) & 1, (
                    turn,
                    side,
                    other,
                )


def test_careful_drivers_do_not_crash() -> None:
    batch = make_batch("junction", 300, fewest=8)
    while not batch.done.all():
        advance(batch, "expert")
    assert batch.drain_log() == {"episodes": 300.0, "arrived": 8.0, "crashed": 0.0}
