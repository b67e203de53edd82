"""This module has the records of an entrant's calls: of the current call in shared memory, and of the outcomes so far.

`entrant_calls` writes a `CallRecord` at the start and the end of every call of an entrant. Other processes read it, to
kill a process whose call exceeds its deadline (`workers`, `isolation`) and to find in which call a process ended
(`isolation`). Nothing is written to disk.
"""

from __future__ import annotations

import os
from collections.abc import MutableSequence
from typing import Any

import numpy as np

from rl_lab.tournament.entrant_guard import EXIT_OUTPUT_REPLACED, EntrantFault

# Indices of `CallRecord.values`, which are floats in shared memory:
DEADLINE = 0  # of the current call by the machine's monotonic clock; 0 outside of a call and for a call without limit
SEAT = 1  # of the entrant that is or was called last; -1 while it is made
CALLS = 2  # number of calls so far
GROUP = 3  # process group of the process in which a match is isolated, 0 for none; `worker` writes it
IN_CALL = 4  # 1 during a call
NUM_VALUES = 5


class CallOutcomes:
    """The outcomes of the calls in a match, as JSON data by the number of the call, to record or to replay.

    If `recorded` is not None, outcomes are added to it. If `replayed` is not None, its outcomes take the place of the
    calls, so that no code of an entrant runs.
    """

    def __init__(self, *, recorded: dict[str, Any] | None = None, replayed: dict[str, Any] | None = None) -> None:
        self.recorded, self.replayed = recorded, replayed

    def record(self, call: int, outcome: Any) -> None:
        """Record the outcome of a call that has ended: an array, a fault, or None for one without a result."""
        if self.recorded is not None:
            self.recorded[str(call)] = outcome.tolist() if isinstance(outcome, np.ndarray) else outcome

    def replay(self, call: int) -> Any:
        """Return the recorded outcome of a call: an unchecked array, a fault, or None."""
        assert self.replayed is not None
        outcome = self.replayed.get(str(call))
        if isinstance(outcome, list) and len(outcome) == 2 and all(isinstance(part, str) for part in outcome):
            return outcome[0], outcome[1]
        return None if outcome is None else np.array(outcome)


class CallRecord:
    """A record of the current call of an entrant's code, which other processes can read through shared memory.

    It numbers the calls from 1, skips a call that is known to end the process, and ends the process after a call that
    has closed the file through which the match is sent. It does not watch the time itself.

    Args:
        values: NUM_VALUES floats, see DEADLINE and the other indices; by default in this process's own memory.
        crash_at_call: the number of a call that is known to end the process, with its fault: that call is skipped.
        disposable: whether this process may be ended because of what an entrant has done in a call.
        outcomes: where the outcomes of calls are recorded or replayed from; by default neither.
    """

    def __init__(
        self,
        values: MutableSequence[float] | None = None,
        crash_at_call: tuple[int, EntrantFault] | None = None,
        *,
        disposable: bool = False,
        outcomes: CallOutcomes | None = None,
    ) -> None:
        self.values = [0.0] * NUM_VALUES if values is None else values
        self.crash_at_call, self.disposable = crash_at_call, disposable
        self.outcomes = outcomes or CallOutcomes()
        self.was_skipped = False  # whether the last call was `crash_at_call`
        self._output: tuple[int, Any] | None = None  # a file descriptor, and what identified its file

    @property
    def number(self) -> int:
        """Return the number of the current or last call, from 1; 0 before the first."""
        return int(self.values[CALLS])

    def exit_if_replaced(self, descriptor: int) -> None:
        """From now on, let `end` exit this process if a call has closed or replaced the file of this descriptor.

        The match is sent through it. Without this, the process would end later, and another entrant would be blamed.
        """
        self._output = descriptor, _identity(descriptor)

    def begin(self, seat: int, deadline: float) -> EntrantFault | None:
        """Record the start of a call; return None, or the fault of a call that must be skipped."""
        self.values[CALLS] += 1
        self.was_skipped = self.crash_at_call is not None and self.crash_at_call[0] == self.values[CALLS]
        if self.crash_at_call is not None and self.was_skipped:
            return self.crash_at_call[1]
        self.values[SEAT], self.values[DEADLINE], self.values[IN_CALL] = seat, deadline, 1.0
        return None

    def end(self) -> None:
        """Record the end of the call.

        Exits the process, with EXIT_OUTPUT_REPLACED, if the call closed or replaced the file of `exit_if_replaced`.
        """
        if self._output is not None and _identity(self._output[0]) != self._output[1]:
            os._exit(EXIT_OUTPUT_REPLACED)
        self.values[DEADLINE] = self.values[IN_CALL] = 0.0


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return the device and inode of an open file, None where it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
