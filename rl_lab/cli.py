"""The command line `rl-lab`: parse the arguments, run the command's file in commands/, turn errors into exit statuses.

`main` is the entry point. An error that a user can mend (`UsageError`) is one line and status 2, a failure of the work
one line and status 1, and a bug of the lab one line that names a file with the traceback. While a command runs, the
streams and Python's format of warnings are the lab's; they are restored at the end.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from rl_lab import commands
from rl_lab.core.interruptible import interruptible


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports wrong arguments in one line, as all other errors are reported."""

    def error(self, message: str) -> NoReturn:
        from rl_lab.core.errors import nearest, one_line

        message = message.removesuffix(", key=value")  # these arguments are optional
        invalid = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if invalid is not None:
            near = nearest(invalid[1], re.findall("[a-z][a-z-]*", invalid[2])).removesuffix("?")
            message = f"{message[: invalid.start()]}no {invalid[1]!r}; {near} (choose from {invalid[2]})"
        if message.endswith("COMMAND"):
            message += f" ({', '.join(_verbs())})"
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def _verbs() -> list[str]:
    """Return the names of the commands; a file's underscore is a hyphen in the name."""
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)]


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each file in commands/ adds the arguments of its own."""
    top = _Parser(
        allow_abbrev=False,
        prog="rl-lab",
        description="Train, measure and film agents in worlds written as scalar Python.",
    )
    top.add_argument("--version", action="version", version=f"rl-lab {metadata.version('rl-lab')}")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for module in pkgutil.iter_modules(commands.__path__):
        command = importlib.import_module(f"{commands.__name__}.{module.name}")
        verb = verbs.add_parser(
            command.NAME,
            help=(command.__doc__ or "").partition("\n")[0].rstrip("."),
            description=command.__doc__,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(verb)
        verb.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
        verb.set_defaults(run=command.run)
    return top


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    The status is 0 for success, 1 where the work failed, 2 for wrong input, and 130, 143 or 129 after an interrupt.
    """
    from rl_lab.core import standard_streams

    standard_streams.protect_standard_streams()
    previous_format, warnings.formatwarning = warnings.formatwarning, _format_warning
    try:
        return _after_output(_run(arguments))
    except SystemExit as done:  # from the parser: help, the version, or wrong arguments
        raise SystemExit(_after_output(int(done.code or 0))) from None
    finally:
        warnings.formatwarning = previous_format


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of the lab or of a library as one line, without file, line and colours."""
    from rl_lab.core.errors import one_line, without_colours

    text = str(message).partition("Traceback (most recent call last)")[0]
    return f"rl-lab: warning: {one_line(without_colours(text))}\n"


def _after_output(status: int) -> int:
    """Write out stdout; return the status of the command, or 1 where the output could not be written."""
    from rl_lab.core import standard_streams

    if (failure := standard_streams.flush_standard_streams()) is not None:
        print(f"rl-lab: cannot write the output: {failure.strerror}", file=sys.stderr)
        return status or 1
    return status


def _run(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command, print an error in one line, and return the exit status."""
    top = parser()
    args, unparsed = top.parse_known_args(arguments)
    # argparse stops collecting key=value at the first option, and does not parse those after it.
    if any(word.startswith("-") for word in unparsed) or (unparsed and not hasattr(args, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(unparsed)}")
    if unparsed:
        args.overrides = [*args.overrides, *unparsed]
    from rl_lab.core.errors import UsageError
    from rl_lab.engine import compile_notice, user_code

    if args.verb not in ("train", "resume") and not args.json:  # these two show it in their progress line
        compile_notice.enable()
    try:
        user_code.reset_permissions(getattr(args, "allow_code", None))
        return int(args.run(args) or 0)
    except UsageError as error:
        print(f"rl-lab: {error}", file=sys.stderr)
        return 2
    except BaseException as error:  # also SystemExit, which only a user's own code raises here
        from rl_lab.core.failures import explain
        from rl_lab.core.interrupts import is_interruption

        if is_interruption(error):
            raise
        print(f"rl-lab: {explain(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
