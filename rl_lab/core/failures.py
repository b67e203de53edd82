"""This module explains an error that ends a command in one line.

For a bug it also writes a temporary file with the traceback, and the line names the file.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import traceback

from rl_lab.core.errors import WorkFailed, one_line

_MAX_LENGTH = 500  # characters of a message


def explain(error: BaseException) -> str:
    """Return an error as one line; the traceback of an unexpected one is written to a file that the line names."""
    if isinstance(error, MemoryError):
        return one_line(f"not enough memory: {error}")
    if isinstance(error, OSError):
        return one_line(_system_message(error))
    if is_failure(error):
        return one_line(error)
    message = one_line(_message(error))[:_MAX_LENGTH]
    return f"unexpected {type(error).__name__}{': ' * bool(message)}{message}; {_write_report(error)}"


def _system_message(error: OSError) -> str:
    """Return the system's message with the file it concerns, which `strerror` alone does not name."""
    if error.errno is None or error.strerror is None or error.filename is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}"


def is_failure(error: BaseException) -> bool:
    """Return True for an error that means failed work and not a bug; its message is one line."""
    return isinstance(error, OSError | MemoryError | WorkFailed)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # it may be a user's own class whose __str__ fails
        return ""


def _write_report(error: BaseException) -> str:
    """Write the traceback to a file, and return the advice that names the file."""
    command = " ".join(sys.argv)
    try:
        text = "".join(traceback.format_exception(error))
        with tempfile.NamedTemporaryFile(
            "w", prefix="rl-lab-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"{command}\nPython {platform.python_version()}, {platform.platform()}\n\n{text}")
        return f"if it is not your own code's, please report it as a bug, with {file.name}"
    except Exception:  # a full disk, or an error whose traceback cannot be shown
        return "please report it as a bug, with the command that you typed"
