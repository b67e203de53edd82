"""Limits of time that mean the same on a busy machine as on an idle one.

A limit by the clock on the wall says as much about other programs as about the one under test: where five programs
share a processor, each takes five times as long. So `within` counts the processor time of a process that does nothing
but use it. That process gets as large a share of the machine as the one that the test waits for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It ends with the test's process, whatever ends that.
USE_THE_PROCESSOR = """
import os, time
parent = os.getppid()
while os.getppid() == parent and time.process_time() < 600:
    pass
"""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail unless the block ends in this time: seconds of a processor of an idle machine, and more of a busy one."""
    clock = subprocess.Popen([sys.executable, "-I", "-S", "-c", USE_THE_PROCESSOR])
    try:
        yield
    finally:
        clock.kill()
        _, _, used = os.wait4(clock.pid, 0)
        clock.wait()
    assert used.ru_utime + used.ru_stime < seconds
