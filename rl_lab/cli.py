"""The command line: parses, hands over to a verb's file in commands/, and turns errors into exit statuses."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import commands


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error does."""

    def error(self, message: str) -> NoReturn:
        from .names import nearest, one_line

        message = message.removesuffix(", key=value")  # of which there may be none
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong is not None:
            near = nearest(wrong[1], re.findall("[a-z]+", wrong[2])).removesuffix("?")
            message = f"{message[: wrong.start()]}no {wrong[1]!r}; {near} (choose from {wrong[2]})"
        if message.endswith("COMMAND"):
            message += f" ({', '.join(module.name for module in pkgutil.iter_modules(commands.__path__))})"
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of every verb; each file in commands/ describes its own."""
    top = _Parser(
        allow_abbrev=False,
        prog="rl-lab",
        description="Train, measure and film agents in worlds written as scalar Python.",
    )
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 done, 1 the work failed, 2 the input was wrong, 130 or 143 when interrupted."""
    top = parser()
    given, rest = top.parse_known_args(arguments)
    # argparse stops collecting key=value at the first option; those after it are left over.
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(given, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        given.overrides = [*given.overrides, *rest]
    from .names import UsageError

    try:
        return int(given.run(given) or 0)
    except UsageError as error:
        print(f"rl-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # the reader, `head` say, has seen enough
    except Exception as error:
        if not isinstance(error, OSError | MemoryError | _failures()):
            raise
        from .names import one_line

        reason = f"not enough memory: {error}" if isinstance(error, MemoryError) else error
        print(f"rl-lab: {one_line(reason)}", file=sys.stderr)
        return 1


def _failures() -> Any:
    """Return the errors that are a failed work's and not a bug's: their message is one line."""
    from .adapters.window import WindowError
    from .checkpoint import CheckpointError
    from .engine import NonFiniteError
    from .evaluate import EndlessEpisodeError
    from .film import ReplayError
    from .world import WorldError

    return NonFiniteError | CheckpointError | EndlessEpisodeError | ReplayError | WindowError | WorldError


if __name__ == "__main__":
    sys.exit(main())
