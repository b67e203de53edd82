"""The command line: parse the arguments, run the verb's file in commands/, and convert errors to exit statuses."""

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
    """A parser that reports an error in one line, as all other errors are reported."""

    def error(self, message: str) -> NoReturn:
        from rl_lab.core.errors import nearest, one_line

        message = message.removesuffix(", key=value")  # these arguments are optional
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong is not None:
            near = nearest(wrong[1], re.findall("[a-z]+", wrong[2])).removesuffix("?")
            message = f"{message[: wrong.start()]}no {wrong[1]!r}; {near} (choose from {wrong[2]})"
        if message.endswith("COMMAND"):
            message += f" ({', '.join(module.name for module in pkgutil.iter_modules(commands.__path__))})"
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each file in commands/ defines the arguments of its verb."""
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
    from rl_lab.core import streams

    streams.protect_standard_streams()
    formatted, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        return _finished(_run(arguments))
    except SystemExit as done:  # of the parser: help, the version, or arguments that it refuses
        raise SystemExit(_finished(int(done.code or 0))) from None
    finally:
        warnings.formatwarning = formatted


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of the lab or of a library as one line, without a place in the code and without colours."""
    from rl_lab.core.errors import one_line, without_colours

    told = str(message).partition("Traceback (most recent call last)")[0]
    return f"rl-lab: warning: {one_line(without_colours(told))}\n"


def _finished(status: int) -> int:
    """Return the exit status of a command that has ended with this one, its output written."""
    from rl_lab.core import streams

    if (failure := streams.flush_standard_streams()) is not None:
        print(f"rl-lab: cannot write the output: {failure.strerror}", file=sys.stderr)
        return status or 1
    return status


def _run(arguments: Sequence[str] | None) -> int:
    top = parser()
    args, rest = top.parse_known_args(arguments)
    # argparse stops collecting key=value at the first option; those after it are left over.
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(args, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    from rl_lab.core.errors import UsageError
    from rl_lab.engine import compile_notice, user_code

    if args.verb not in ("train", "resume") and not args.json:  # these say it in their display of progress
        compile_notice.enable()
    try:
        user_code.reset_permissions(getattr(args, "allow_code", None))
        return int(args.run(args) or 0)
    except UsageError as error:
        print(f"rl-lab: {error}", file=sys.stderr)
        return 2
    except BaseException as error:  # including SystemExit, which only a user's code raises
        from rl_lab.core.failures import explain
        from rl_lab.core.interrupts import is_interruption

        if is_interruption(error):
            raise
        print(f"rl-lab: {explain(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
