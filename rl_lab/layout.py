"""What the engine and its compiled loops agree on: modes, faults, and where the batch's header keeps what."""

SAME_STEP, NEXT_STEP, DISABLED = 0, 1, 2
# Positions in the header, an int64 array through which compiled code finds the batch's arrays.
N, CHUNKS, MODE, HORIZON, N_PARAMS, FIRST_POINTER, HEADER_SIZE = 0, 1, 2, 3, 4, 5, 24
ACTIONS = 5  # where the actions stand in what `loops.view` returns
# A loop's outcome is the number of episodes that ended or, below 0, -(1 + FAULTS * world + fault).
BAD_ACTION, BAD_REWARD, BAD_OBSERVATION, FAULTS = 0, 1, 2, 4
# What a step leaves to be settled of a world, as bits: it ended, by itself or by the horizon; it was over before; its
# reward or its observation is not finite.
OVER, LATE, FROZEN, UNPAID, UNSEEN = 1, 2, 4, 8, 16
