"""What the engine and its compiled loops agree on: modes, faults, and where the batch's header keeps what."""

from typing import Any, NamedTuple

SAME_STEP, NEXT_STEP, DISABLED = 0, 1, 2
REFUSE, FORFEIT, NOOP = 0, 1, 2  # what becomes of an illegal action
# Positions in the header, an int64 array through which compiled code finds the batch's arrays.
# CHECK and STEP are addresses of the world's `check_some` and `step_some`; GRAIN worlds are stepped together.
N, MODE, HORIZON, N_PARAMS, ILLEGAL, CHECK, STEP, GRAIN, FIRST_POINTER = range(9)
HEADER_SIZE = FIRST_POINTER + 18
# A loop's outcome is the number of episodes that ended or, below 0, -(1 + FAULTS * world + fault).
BAD_ACTION, BAD_REWARD, BAD_OBSERVATION, RAISED, FAULTS = range(5)
# What a step leaves to be settled of a world, as bits: it ended, by itself or by the horizon; it was over before; its
# reward or its observation is not finite.
OVER, LATE, FROZEN, UNPAID, UNSEEN = 1, 2, 4, 8, 16


class View(NamedTuple):
    """A batch as its loops see it: three settings, then its arrays in the order of the header's pointers."""

    mode: Any
    horizon: Any
    illegal: Any
    states: Any
    words: Any  # the states again, as 8-byte words
    params: Any
    actions: Any
    observations: Any
    flat: Any  # the observations again, [N, A, numbers]
    rewards: Any
    terminated: Any
    truncated: Any
    ended: Any
    final_observations: Any  # [N, A, numbers]
    running: Any
    returns: Any
    lengths: Any
    logs: Any
    legal: Any
    active: Any
    departed: Any
    fouls: Any
    held: Any
