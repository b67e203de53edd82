"""What is recorded about the calls of entrants in a match: the current call, and the outcomes of earlier ones."""

from __future__ import annotations

import os
from collections.abc import MutableSequence
from typing import Any

import numpy as np

from rl_lab.tournament.entrant_guard import CLOSED, EntrantFault

# Indices of the values of a `CallRecord`.
DEADLINE, SEAT, CALLS, GROUP, IN_CALL = range(5)
NUM_VALUES = 5


class CallTape:
    """The outcomes of the calls in a match, as data of JSON, by the number of the call.

    `recorded`, where it is not None, receives them. Where `replayed` is not None, its outcomes take the place of the
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

    It watches nothing itself. It numbers the calls from 1, skips the one that is known to end the process, and ends the
    process after a call that has closed the file through which the match is sent.

    Args:
        values: NUM_VALUES floats: the deadline of the call by the machine's monotonic clock (0 outside of a call and
            for a call without limit), the seat, the number of calls so far, the process group (0 for none), and 1
            during a call.
        crash_at_call: the number of a call that is known to end the process, with its fault: that call is skipped.
        disposable: whether a call may end this process.
        tape: the outcomes of the calls.
    """

    def __init__(
        self,
        values: MutableSequence[float] | None = None,
        crash_at_call: tuple[int, EntrantFault] | None = None,
        *,
        disposable: bool = False,
        tape: CallTape | None = None,
    ) -> None:
        self.values = [0.0] * NUM_VALUES if values is None else values
        self.crash_at_call, self.disposable = crash_at_call, disposable
        self.tape = tape or CallTape()
        self.skipped = False  # whether the last call was the one to skip
        self._output: tuple[int, Any] | None = None  # a file descriptor, and what identified its file

    @property
    def number(self) -> int:
        """Return the number of the current or last call, from 1; 0 before the first."""
        return int(self.values[CALLS])

    def exit_if_replaced(self, descriptor: int) -> None:
        """From now on, let `end` exit this process with CLOSED if the call has closed or replaced this descriptor.

        The match is sent through it. So the process ends in the call that did it, and not in a later entrant's.
        """
        self._output = descriptor, _identity(descriptor)

    def begin(self, seat: int, deadline: float) -> EntrantFault | None:
        """Record the start of a call; return its fault where the call must be skipped."""
        self.values[CALLS] += 1
        self.skipped = self.crash_at_call is not None and self.crash_at_call[0] == self.values[CALLS]
        if self.crash_at_call is not None and self.skipped:
            return self.crash_at_call[1]
        self.values[SEAT], self.values[DEADLINE], self.values[IN_CALL] = seat, deadline, 1.0
        return None

    def end(self) -> None:
        """Record the end of the call.

        Ends the process, with status CLOSED, if the call closed or replaced the file given to `exit_if_replaced`.
        """
        if self._output is not None and _identity(self._output[0]) != self._output[1]:
            os._exit(CLOSED)
        self.values[DEADLINE] = self.values[IN_CALL] = 0.0


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return what identifies an open file, None where it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
