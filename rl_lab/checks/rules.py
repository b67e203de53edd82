"""This module has properties of `rl-lab check` for a world's rules: what its kernels write, return and promise.

`suite` calls each of the public functions with a `WorldUnderTest`. It returns the findings, one line for each mistake,
or raises Skip where the property does not apply. The functions step new batches and change nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rl_lab.checks.subject import MAX_FINDINGS, Skip, WorldUnderTest
from rl_lab.core.kernel import source_location
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import with_loop_limit
from rl_lab.engine import compiler
from rl_lab.engine.batch import Batch
from rl_lab.engine.kernel_rules import violations
from rl_lab.rendering.drawing import draw
from rl_lab.rendering.json_canvas import JsonCanvas

# Of numbers in rotated seats, because sums over agents in another order round differently.
_RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE = 1e-4, 1e-5
_ZERO_SUM_TOLERANCE = 1e-5  # of the sum of rewards of a step, which are float32


def kernels_keep_the_rules(subject: WorldUnderTest) -> list[str]:
    """Check the kernels' source; then run them: step must return the right types, and not write p or the actions."""
    if broken := violations(subject.world):
        return [str(violation) for violation in broken]
    world = with_loop_limit(replace(subject.short_world))  # a copy, because its plain loops are changed below
    findings, authored_step = dict[str, str](), world.step

    def step(*arguments: Any) -> Any:
        result = authored_step(*arguments)
        if finding := _invalid_step_result(result, len(world.agents) == 1):
            findings[finding] = f"{source_location(subject.world.step)}: {finding}"
        return result

    vars(compiler.plain_loops(world))["step"] = step
    try:
        batch = subject.batch(1, world=world, plain=True)
        for _ in subject.write_actions(batch, subject.budget.plain_steps):
            before = {name: getattr(batch, name).tobytes() for name in ("params", "actions")}
            batch.step()
            if before["params"] != batch.params.tobytes():
                finding = "writes to p: Params are the user's and stay as they are"
                findings["params"] = f"{source_location(world.step)}: {finding}"
            if before["actions"] != batch.actions.tobytes():
                findings["actions"] = f"{source_location(world.step)}: writes to the actions, which are the agent's"
    except Exception:  # caused by what step returned, or reported by another property
        pass
    return list(findings.values())


def _invalid_step_result(result: Any, is_single_agent: bool) -> str:
    """Return what is wrong with a result of the step kernel, "" if nothing is.

    In a world of one agent it is (reward, terminated), in others `terminated`.
    """
    if is_single_agent and (not isinstance(result, tuple) or len(result) != 2):
        return "returns something else than (reward, terminated) on some way out"
    reward, terminated = result if is_single_agent else (0.0, result)
    if isinstance(reward, bool) and not isinstance(terminated, bool | np.bool_):
        return f"returned {result}: terminated comes first; write `return reward, terminated`"
    if not isinstance(terminated, bool | int | np.bool_ | np.integer):
        return f"returned {result}: terminated is True or False"
    return ""


def it_can_be_drawn(subject: WorldUnderTest) -> list[str]:
    """Draw the states of an episode, its first and last among them."""
    world = subject.world
    if world.draw is None:
        raise Skip("the world has no draw: its observation is shown")
    from rl_lab.rendering.render import picture  # imports pygame

    batch = subject.batch(1, no_autoreset=True)
    for t in subject.write_actions(batch, first=1):  # the expert's, where there is one: it comes to the end
        for is_after_step in (False, True):
            if t < subject.budget.plain_steps or (is_after_step and batch.done[0]):
                picture(batch, 0)
                before = batch.states[:1].tobytes(), batch.params[:1].tobytes()
                rows = [  # copies, with the gaps between fields
                    np.frombuffer(bytearray(data), array.dtype)
                    for data, array in zip(before, (batch.states, batch.params), strict=True)
                ]
                draw(world, rows[0][0], rows[1][0], JsonCanvas())
                if tuple(row.tobytes() for row in rows) != before:
                    finding = f"at step {t} it changes the state or the parameters: it may only look"
                    return [f"{source_location(world.draw)}: {finding}"]
            if not is_after_step:
                batch.step()
    return []


def observations_lie_in_their_spaces(subject: WorldUnderTest) -> list[str]:
    """Check that every agent's observation is in its space, and that the padding of its row is 0."""
    batch = subject.batch(no_autoreset=True)
    world, findings = batch.world, dict[Any, str]()  # one for each element of an agent's observation and side
    for _ in subject.write_actions(batch):
        batch.step()
        for a, space in enumerate(world.observation_spaces):
            obs = batch.observations[:, a]
            if obs.shape[1:] != space.shape:
                if obs[:, space.shape[0] :].any():
                    findings[a] = f"{world.agents[a]}: observe writes behind its own {space.shape[0]} numbers"
                obs = obs[:, : space.shape[0]]
            for side, is_outside in (("low", obs < space.low), ("high", obs > space.high)):
                for index in np.argwhere(is_outside)[:1]:
                    element, limit = tuple(int(k) for k in index[1:]), getattr(space, side)
                    text = f"{world.agents[a]}: out[{', '.join(map(str, element))}] = {obs[tuple(index)]:g}"
                    findings.setdefault((a, side, element), f"{text}, but its space's {side} is {limit[element]:g}")
        if len(findings) > MAX_FINDINGS:
            break
    return list(findings.values())


def masks_tell_the_truth(subject: WorldUnderTest) -> list[str]:
    """Try the actions in states of an episode: legal ones must change the state, and illegal ones must be refused."""
    world = subject.short_world
    if not world.has_action_mask:
        raise Skip("every action is legal")
    batch, branch = subject.batch(1, no_autoreset=True), subject.batch(1, no_autoreset=True)
    findings: set[str] = set()
    tested_steps = set(np.linspace(0, subject.budget.steps - 1, subject.budget.states).astype(int).tolist())
    for t in subject.write_actions(batch):
        for a in np.flatnonzero(batch.acting[0]):
            space, mask, agent = world.action_spaces[a], batch.action_mask[0, a], world.agents[a]
            count = int(space.n)  # type: ignore[union-attr]
            if mask.max() > 1:
                findings.add(f"{agent}: action_mask writes {mask.max()}, where 1 means legal and 0 not")
            if mask[count:].any():
                findings.add(
                    f"{agent}: action_mask marks action {count + int(mask[count:].argmax())}, but there are {count}"
                )
            if not mask[:count].any():
                findings.add(
                    f"{agent} has to act at step {t} of an episode and has no legal action: let it pass, or end"
                )
            elif t in tested_steps:
                findings |= set(_try_actions(batch, branch, int(a), count, t))
        if findings:
            break
        batch.step()
    return sorted(findings)


def _try_actions(batch: Batch, branch: Batch, a: int, count: int, t: int) -> list[str]:
    """Return findings from trying agent a's actions, at most 32, in the current state of a batch of one.

    Each action is tried in `branch`, another batch of one, into which the state is copied; `count` is the number of
    actions of the agent, `t` the number of the step.
    """
    world, state, findings = batch.world, batch.state(0), []
    for action in np.unique(np.linspace(0, count - 1, min(count, 32)).astype(int)).tolist():
        branch.set_state(0, state)
        branch.actions[...] = batch.actions
        branch.actions[0, a] = action
        what = f"{world.agents[a]}, action {action} at step {t}"
        try:
            branch.step()
            is_refused = False
        except ValueError:
            is_refused = True
        if is_refused == bool(batch.action_mask[0, a, action]):
            mask_says, engine_did = ("legal", "refused") if is_refused else ("illegal", "taken")
            findings.append(f"{what}: the mask says {mask_says}, but it was {engine_did}")
        changes_nothing = _without_random_stream_and_time(branch.state(0)) == _without_random_stream_and_time(state)
        if world.current_player_field and not is_refused and not branch.done[0] and changes_nothing:
            findings.append(f"{what}: legal, but nothing changes and {world.agents[a]} has to move again: is it?")
    return findings


def _without_random_stream_and_time(state: bytes) -> bytes:
    """Return the bytes of a state that follow its random stream (16 bytes) and t (4 bytes)."""
    return state[20:]


def agents_that_left_stay_away(subject: WorldUnderTest) -> list[str]:
    """Check the alive field along episodes: an agent that has left stays away."""
    alive = subject.world.alive_field
    if not alive:
        raise Skip("no agent leaves before the end")
    batch = subject.batch(no_autoreset=True)
    for t in subject.write_actions(batch):
        before, is_first_step = batch.states[alive].copy(), batch.states["t"] == 0
        if (before > 1).any():
            return [f"step {t}: State.{alive} holds {before.max()}, where 1 means alive and 0 not"]
        batch.step()
        returned = (batch.states[alive] > before) & ~is_first_step[:, None]
        if returned.any():
            agent = batch.world.agents[int(np.argwhere(returned)[0, 1])]
            return [f"step {t}: {agent} left and is back; for PettingZoo and learners, its episode is over"]
    return []


def rewards_sum_to_zero(subject: WorldUnderTest) -> list[str]:
    """Check that the rewards of every step sum to zero."""
    if not subject.world.zero_sum:
        raise Skip("the world does not promise it")
    batch = subject.batch()
    for t in subject.write_actions(batch):
        batch.step()
        sums = batch.rewards.sum(axis=1, dtype=np.float64)
        if (np.abs(sums) > _ZERO_SUM_TOLERANCE).any():
            i = int(np.abs(sums).argmax())
            return [f"step {t}: rewards {batch.rewards[i].tolist()} sum to {sums[i]:g}; zero_sum promises 0"]
    return []


def seats_can_be_swapped(subject: WorldUnderTest) -> list[str]:
    """Rotate the seats: each agent must then have the observations, masks and rewards of the agent before it."""
    world, rotate = subject.short_world, subject.world.rotate_seats
    if rotate is None:
        raise Skip("the world has no rotate_seats")
    one, other = subject.batch(1, no_autoreset=True), subject.batch(1, no_autoreset=True)
    agents = len(world.agents)
    for t in subject.write_actions(one, first=1):
        row = np.frombuffer(bytearray(one.state(0)), one.states.dtype)  # a copy, with the gaps between fields
        rotate(PlainRecord(row[0]), PlainRecord(one.params[0]))
        other.set_state(0, row.tobytes())
        if finding := _asymmetry(one, other, "observations action_mask acting"):
            return [f"after rotate_seats at step {t}: {finding}"]
        for _ in range(agents - 1):
            rotate(PlainRecord(row[0]), PlainRecord(one.params[0]))
        if row.tobytes() != one.state(0):
            return [f"step {t}: {agents} rotations do not give the state back"]
        other.actions[...] = np.roll(one.actions, 1, axis=1)
        one.step()
        other.step()
        if one.done[0] != other.done[0]:
            return [f"step {t}: the episode ends in one seating and not in the other"]
        if finding := _asymmetry(one, other, "rewards observations action_mask acting"):
            return [f"step {t}, played in both seatings: {finding}"]
    return []


def _asymmetry(one: Batch, other: Batch, names: str) -> str:
    """Return how the arrays of these names in `other` differ from those of `one` with agents rotated; "" if equal."""
    for name in names.split():
        rotated, expected = np.roll(getattr(one, name), 1, axis=1)[0], getattr(other, name)[0]
        differs = ~np.isclose(rotated, expected, _RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE)
        if differs.any():
            a = int(np.argwhere(differs)[0, 0])
            seats = f"{one.world.agents[a]} does not get the {name} of {one.world.agents[a - 1]}"
            return f"{seats}: rotate_seats must move all of a seat, and the rules tell no seats apart"
    return ""
