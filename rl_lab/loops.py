"""The batch loops around a world's scalar kernels.

Not imported as it stands: `compiler` executes a copy of this file once a world, with that world's compiled kernels
and constants set as its globals, so that numba's disk cache serves every later process; and once with the plain
kernels, so that the same loops run under a debugger. Shapes: N worlds, A agents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.layout import (
    BAD_ACTION,
    BAD_OBSERVATION,
    FAULTS,
    FORFEIT,
    FROZEN,
    LATE,
    OVER,
    RAISED,
    REFUSE,
    SAME_STEP,
    UNPAID,
    UNSEEN,
)

if TYPE_CHECKING:
    from rl_lab.rng import philox

    from .compiler import inlined, jit, outlined
    from .episode import look, present, restart, settle, to_move, view
    from .lanes import step_blocks

    step: Any  # the world's kernels, compiled
    expert: Any
    novice: Any
    A: int
    SOLO: bool
    DISCRETE: bool
    MASKED: bool
    TURNS: bool
    LEAVING: bool
    ZERO_SUM: bool
    FORFEIT_REWARD: float
    LOWEST: Any  # of an action, float32 [A, k]
    HIGHEST: Any
    COUNTS: Any  # of actions, int64 [A]
    COMPILED: bool
    LANES: int  # worlds stepped at a time, or 0

LOW_BITS, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@inlined
def _scalar_fits(b: Any, i: Any, a: Any) -> Any:
    return 0 <= b.actions[i, a] < COUNTS[a]


@inlined
def _legal_fits(b: Any, i: Any, a: Any) -> Any:
    action = b.actions[i, a]
    return 0 <= action < COUNTS[a] and b.legal[i, a, action] != 0


@inlined
def _row_fits(b: Any, i: Any, a: Any) -> Any:
    fits = True
    for k in range(LOWEST.shape[1]):
        fits &= LOWEST[a, k] <= b.actions[i, a, k] <= HIGHEST[a, k]
    return fits


fits = _legal_fits if MASKED else _scalar_fits if DISCRETE else _row_fits


@inlined
def _world_fits_solo(b: Any, i: Any) -> Any:
    return fits(b, i, 0)


@inlined
def _world_fits_several(b: Any, i: Any) -> Any:
    # Whoever does not act may leave anything in its row.
    good = True
    for a in range(A):
        good &= b.active[i, a] == 0 or fits(b, i, a)
    return good or b.held[i] != 0


world_fits = _world_fits_solo if SOLO else _world_fits_several


@inlined
def check_actions(b: Any, low: Any, high: Any) -> Any:
    """Return 0, or the outcome of the first action in worlds low..high-1 outside its space, as NaN always is."""
    if MASKED and b.illegal != REFUSE:
        return 0  # each world sees to its own
    good = True
    # No way out, and unsigned, so that no index counts from the end: such a loop takes many actions at a time.
    for i in range(np.uint64(low), np.uint64(high)):
        good &= world_fits(b, i)
    if not good:
        for i in range(low, high):
            if not world_fits(b, i):
                return -(1 + FAULTS * i + BAD_ACTION)
    return 0


@inlined
def _fouls(b: Any, i: Any) -> Any:
    fouls = 0
    for a in range(A):
        bad = (SOLO or b.active[i, a] != 0) and not fits(b, i, a)
        b.fouls[i, a] = 1 if bad else 0
        if bad:
            fouls += 1
            b.actions[i, a] = 0
            while b.actions[i, a] < COUNTS[a] - 1 and b.legal[i, a, b.actions[i, a]] == 0:
                b.actions[i, a] += 1
    return fouls


@inlined
def _none(b: Any, i: Any) -> Any:
    return 0


# Notes who acts illegally in world i, returns how many, and gives them their first legal action: the game may go on.
foul = _fouls if MASKED else _none


@inlined
def forfeit(b: Any, i: Any, fouls: Any) -> None:
    """Pay what an illegal action costs; in a zero-sum world the others share it."""
    for a in range(A):
        if b.fouls[i, a]:
            b.rewards[i, a] = FORFEIT_REWARD
        elif ZERO_SUM:
            b.rewards[i, a] = -FORFEIT_REWARD * fouls / (A - fouls)


@inlined
def _play_solo(i: Any, b: Any) -> Any:
    s = b.states[i]
    s.t += 1
    if b.illegal != REFUSE and foul(b, i) and b.illegal == FORFEIT:
        b.rewards[i, 0] = FORFEIT_REWARD
        b.running[i, 0] += FORFEIT_REWARD
        return True, True
    reward, over = step(s, b.actions[i, 0], b.params[min(i, len(b.params) - 1)])
    b.rewards[i, 0] = reward
    paid = reward - reward == 0
    if paid:
        b.running[i, 0] += reward
    return over, paid


@inlined
def _step_mover(s: Any, actions: Any, p: Any, rewards: Any) -> Any:
    return step(s, actions[to_move(s)], p, rewards)


@inlined
def _step_all(s: Any, actions: Any, p: Any, rewards: Any) -> Any:
    return step(s, actions, p, rewards)


step_world = _step_mover if TURNS else _step_all


@inlined
def _play_several(i: Any, b: Any) -> Any:
    s = b.states[i]
    s.t += 1
    for a in range(A):
        b.rewards[i, a] = 0.0
    fouls = foul(b, i) if b.illegal != REFUSE else 0
    over = False
    if fouls and b.illegal == FORFEIT:
        forfeit(b, i, fouls)
        over = True
    elif not (fouls and TURNS):  # who moves illegally has the move again
        over = step_world(s, b.actions[i], b.params[min(i, len(b.params) - 1)], b.rewards[i])
    if LEAVING:
        left = 0
        for a in range(A):
            here = present(s, a) != 0
            left += here
            b.departed[i, a] = 1 if b.active[i, a] and not here else 0
        over = over or left == 0
    excess = b.rewards[i, 0] - b.rewards[i, 0]
    for a in range(A):
        excess += b.rewards[i, a] - b.rewards[i, a]
        b.running[i, a] += b.rewards[i, a]
    return over, excess == 0


play = _play_solo if SOLO else _play_several


@outlined
def step_each(low: Any, high: Any, batch: Any) -> Any:
    """Step worlds low..high-1 one after the other; return the outcome (see FAULTS)."""
    b = view(batch)
    finished = 0
    for i in range(low, high):
        if not SOLO and b.held[i]:
            continue
        if b.ended[i] and b.mode != SAME_STEP:
            for a in range(A):
                b.rewards[i, a] = 0.0
                b.departed[i, a] = b.fouls[i, a] = 0
            event = FROZEN
        else:
            over, paid = play(i, b)
            late = 0 < b.horizon <= b.states[i].t
            event = (OVER if over else 0) | (LATE if late else 0)
            if not paid:
                event = UNPAID
            else:
                b.terminated[i] = over
                b.truncated[i] = late
                b.ended[i] = over or late
                if not look(i, b, not (over or late)):
                    event |= UNSEEN
        if event:
            outcome = settle(i, event, batch)
            if outcome < 0:
                return outcome
            finished += outcome
    return finished


@inlined
def _step_many(low: Any, high: Any, batch: Any) -> Any:
    # A block takes as long for one world as for all of its lanes.
    return step_blocks(low, high, batch) if high - low > 3 * LANES // 8 else step_each(low, high, batch)


step_range = _step_many if LANES else step_each


def check_some(low: Any, high: Any, batch: Any) -> Any:
    """Return 0, or the outcome of the first action of worlds low..high-1 outside its space. Called by address."""
    return check_actions(view(batch), low, high)


if COMPILED:

    def step_some(low: Any, high: Any, batch: Any) -> Any:
        """Step worlds low..high-1, whose actions have been checked; return the outcome. Called by address."""
        try:
            outcome = step_range(low, high, batch)
        except Exception:  # who calls by address would not hear of it
            outcome = -(1 + FAULTS * low + RAISED)
        return outcome

else:
    step_some = step_range


@jit
def reset_masked(batch: Any, mask: Any) -> Any:
    """Begin a new episode in the worlds where mask [N] is 1; where it is 2 only observe. Return the outcome."""
    b = view(batch)
    for i in range(len(mask)):
        if mask[i] == 1:
            for a in range(A):
                b.rewards[i, a] = 0.0
                b.departed[i, a] = b.fouls[i, a] = 0
            b.terminated[i] = b.truncated[i] = b.ended[i] = 0
            restart(i, b)
        if mask[i] and not look(i, b, b.ended[i] == 0 or b.mode == SAME_STEP):
            return -(1 + FAULTS * i + BAD_OBSERVATION)
    return 0


@inlined
def _script_scalar(script: Any, b: Any, i: Any) -> None:
    b.actions[i, 0] = script(b.states[i], b.params[min(i, len(b.params) - 1)])


@inlined
def _script_row(script: Any, b: Any, i: Any) -> None:
    script(b.states[i], b.params[min(i, len(b.params) - 1)], b.actions[i, 0])


@inlined
def _script_scalars(script: Any, b: Any, i: Any) -> None:
    for a in range(A):
        if b.active[i, a]:
            b.actions[i, a] = script(b.states[i], a, b.params[min(i, len(b.params) - 1)])


@inlined
def _script_rows(script: Any, b: Any, i: Any) -> None:
    for a in range(A):
        if b.active[i, a]:
            script(b.states[i], a, b.params[min(i, len(b.params) - 1)], b.actions[i, a])


run_script = (_script_scalar if DISCRETE else _script_row) if SOLO else _script_scalars if DISCRETE else _script_rows


@inlined
def _draw_choice(b: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    b.actions[i, a] = ((philox(key, counter + np.uint64(i * A + a)) & LOW_BITS) * np.uint64(COUNTS[a])) >> HALF


@inlined
def _draw_legal(b: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    count = 0
    for k in range(COUNTS[a]):
        count += b.legal[i, a, k] != 0
    drawn = philox(key, counter + np.uint64(i * A + a)) & LOW_BITS
    rank = np.int64((drawn * np.uint64(count)) >> HALF)
    for k in range(COUNTS[a]):
        if b.legal[i, a, k]:
            if rank == 0:
                b.actions[i, a] = k
            rank -= 1


@inlined
def _draw_numbers(b: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    for k in range(LOWEST.shape[1]):
        place = np.uint64((i * A + a) * LOWEST.shape[1] + k)
        share = np.float32((philox(key, counter + place) & LOW_BITS) >> np.uint64(8)) * np.float32(2.0**-24)
        low, high = max(LOWEST[a, k], np.float32(-1e6)), min(HIGHEST[a, k], np.float32(1e6))
        b.actions[i, a, k] = min(low + (high - low) * share, high)


draw_action = _draw_legal if MASKED else _draw_choice if DISCRETE else _draw_numbers


@jit
def random_actions(batch: Any, key: Any, counter: Any) -> None:
    """Write uniformly random legal actions for everyone who acts; uint64 key and counter say which."""
    b = view(batch)
    for i in range(len(b.states)):
        for a in range(A):
            if SOLO or b.active[i, a]:
                draw_action(b, i, a, key, counter)


@jit
def expert_actions(batch: Any) -> None:
    """Write the expert's actions, [N, A] or [N, A, k], for everyone who acts."""
    b = view(batch)
    for i in range(len(b.states)):
        run_script(expert, b, i)


@jit
def novice_actions(batch: Any) -> None:
    """Write the novice's actions as `expert_actions` does the expert's."""
    b = view(batch)
    for i in range(len(b.states)):
        run_script(novice, b, i)
