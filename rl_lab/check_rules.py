"""What `rl-lab check` tests of a world's rules: spaces, masks, who leaves, sums of rewards, symmetry, interfaces."""

from __future__ import annotations

from typing import Any

import numpy as np

from .check import MOST, Skip, Subject
from .engine import Batch
from .record import PlainRecord

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5  # sums over agents in another order round differently


def observations_lie_in_their_spaces(subject: Subject) -> list[str]:
    """Look at every agent's own part of its row, and at the padding behind it."""
    batch = subject.batch(disabled=True)
    world, findings = batch.world, dict[Any, str]()  # one of each place
    for _ in subject.acts(batch):
        batch.step()
        for a, space in enumerate(world.observation_spaces):
            seen = batch.observations[:, a]
            if seen.shape[1:] != space.shape:
                if seen[:, space.shape[0] :].any():
                    findings[a] = f"{world.agents[a]}: observe writes behind its own {space.shape[0]} numbers"
                seen = seen[:, : space.shape[0]]
            for side, bad in (("low", seen < space.low), ("high", seen > space.high)):
                for where in np.argwhere(bad)[:1]:
                    at, limit = tuple(int(k) for k in where[1:]), getattr(space, side)
                    text = f"{world.agents[a]}: out[{', '.join(map(str, at))}] = {seen[tuple(where)]:g}"
                    findings.setdefault((a, side, at), f"{text}, but its space's {side} is {limit[at]:g}")
        if len(findings) > MOST:
            break
    return list(findings.values())


def masks_tell_the_truth(subject: Subject) -> list[str]:
    """From states along an episode try actions one by one: legal ones are taken and do something, others refused."""
    world = subject.short
    if not world.masked:
        raise Skip("every action is legal")
    batch, branch = subject.batch(1, disabled=True), subject.batch(1, disabled=True)
    findings: set[str] = set()
    chosen = set(np.linspace(0, subject.effort.steps - 1, subject.effort.states).astype(int).tolist())
    for t in subject.acts(batch):
        for a in np.flatnonzero(batch.active[0]):
            space, mask, agent = world.action_spaces[a], batch.legal[0, a], world.agents[a]
            count = int(space.n)  # type: ignore[union-attr]
            if mask.max() > 1:
                findings.add(f"{agent}: legal writes {mask.max()}, where 1 means legal and 0 not")
            if mask[count:].any():
                findings.add(f"{agent}: legal marks action {count + int(mask[count:].argmax())}, but there are {count}")
            if not mask[:count].any():
                findings.add(
                    f"{agent} has to act at step {t} of an episode and has no legal action: let it pass, or end"
                )
            elif t in chosen:
                findings |= set(_tried(batch, branch, int(a), count, t))
        if findings:
            break
        batch.step()
    return sorted(findings)


def _tried(batch: Batch, branch: Batch, a: int, count: int, t: int) -> list[str]:
    """Take each of agent a's actions, at most 32, from the state that a batch of one world is in."""
    world, state, findings = batch.world, batch.state(0), []
    for action in np.unique(np.linspace(0, count - 1, min(count, 32)).astype(int)).tolist():
        branch.set_state(0, state)
        branch.actions[...] = batch.actions
        branch.actions[0, a] = action
        what = f"{world.agents[a]}, action {action} at step {t}"
        try:
            branch.step()
            refused = False
        except ValueError:
            refused = True
        if refused == bool(batch.legal[0, a, action]):
            findings.append(
                f"{what}: the mask says {'legal' if refused else 'illegal'}, but it was "
                + "taken refused".split()[refused]
            )
        idle = world.turns and not refused and not branch.ended[0] and _timeless(branch.state(0)) == _timeless(state)
        if idle:
            findings.append(f"{what}: legal, but nothing changes and {world.agents[a]} has to move again: is it?")
    return findings


def _timeless(state: bytes) -> bytes:
    return state[20:]  # without the random stream and t, which come first


def who_left_stays_away(subject: Subject) -> list[str]:
    """Watch who is present along episodes."""
    present = subject.world.present
    if not present:
        raise Skip("nobody leaves before the end")
    batch = subject.batch(disabled=True)
    for t in subject.acts(batch):
        before, fresh = batch.states[present].copy(), batch.states["t"] == 0
        if (before > 1).any():
            return [f"step {t}: State.{present} holds {before.max()}, where 1 means present and 0 not"]
        batch.step()
        back = (batch.states[present] > before) & ~fresh[:, None]
        if back.any():
            agent = batch.world.agents[int(np.argwhere(back)[0, 1])]
            return [f"step {t}: {agent} had left and is back; PettingZoo and learners take who left for gone"]
    return []


def rewards_sum_to_zero(subject: Subject) -> list[str]:
    """Add up every step's rewards."""
    if not subject.world.zero_sum:
        raise Skip("the world does not promise it")
    batch = subject.batch()
    for t in subject.acts(batch):
        batch.step()
        sums = batch.rewards.sum(axis=1, dtype=np.float64)
        if (np.abs(sums) > 1e-5).any():
            i = int(np.abs(sums).argmax())
            return [f"step {t}: rewards {batch.rewards[i].tolist()} sum to {sums[i]:g}; zero_sum promises 0"]
    return []


def seats_can_be_swapped(subject: Subject) -> list[str]:
    """Hand every seat to the next agent: each then sees, may do and gets what the one before it would have."""
    world, swap = subject.short, subject.world.swap
    if swap is None:
        raise Skip("the world has no swap")
    one, other = subject.batch(1, disabled=True), subject.batch(1, disabled=True)
    agents = len(world.agents)
    for t in subject.acts(one, first=1):
        row = np.frombuffer(bytearray(one.state(0)), one.states.dtype)  # a copy, with the gaps between fields
        swap(PlainRecord(row[0]), PlainRecord(one.params[0]))
        other.set_state(0, row.tobytes())
        if found := _asymmetry(one, other, "observations legal active"):
            return [f"after swap at step {t}: {found}"]
        for _ in range(agents - 1):
            swap(PlainRecord(row[0]), PlainRecord(one.params[0]))
        if row.tobytes() != one.state(0):
            return [f"step {t}: {agents} swaps in a row do not give the state back"]
        other.actions[...] = np.roll(one.actions, 1, axis=1)
        one.step()
        other.step()
        if one.ended[0] != other.ended[0]:
            return [f"step {t}: the episode ends in one seating and not in the other"]
        if found := _asymmetry(one, other, "rewards observations legal active"):
            return [f"step {t}, played in both seatings: {found}"]
    return []


def _asymmetry(one: Batch, other: Batch, names: str) -> str:
    for name in names.split():
        mine, theirs = np.roll(getattr(one, name), 1, axis=1)[0], getattr(other, name)[0]
        far = ~np.isclose(mine, theirs, _RELATIVE, _ABSOLUTE)
        if far.any():
            a = int(np.argwhere(far)[0, 0])
            seats = f"{one.world.agents[a]} does not get the {name} of {one.world.agents[a - 1]}"
            return f"{seats}: swap must move all of a seat, and the rules tell no seats apart"
    return ""
