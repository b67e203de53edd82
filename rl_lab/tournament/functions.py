"""This module has entrants that are Python functions or objects of the user: the only kind that runs user code.

`entrants` calls `make` in the processes that play and `content_hash` in the command's own process. The code is imported
here only by `make` and `load_source`; `content_hash` has another process import it. Modules in the folder of an
entrant's file are importable for that entrant alone (`FolderImports`). Code runs only where the user has named it on
the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError
from rl_lab.core.imports import FolderImports, load_with_folder_imports
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.tournament.code_loading import source_file
from rl_lab.tournament.entrant_guard import fault_from_exception

SPEC = re.compile(r"([\w./-]+\.py|\w+(\.\w+)*):[A-Za-z_]\w*")  # `file.py:callable` or `module:callable`


class CodeAgent:
    """The base class of entrants that run user code; only the methods of its subclasses touch the user's objects.

    `folder_imports` is entered around each call. It makes the modules in the folder of the entrant's file importable,
    because other entrants may have modules of the same names.
    """

    name: str
    folder_imports: AbstractContextManager[Any]


class FunctionAgent(CodeAgent):
    """An entrant that calls `function(observation, action_mask)` for one action at a time.

    `observation` has the shape of the agent's observation space. `action_mask` is uint8 [actions], 1 where an action is
    legal, or None in worlds without action masks. Answers are returned unchecked.
    """

    def __init__(self, name: str, function: Any, folder_imports: FolderImports | None = None) -> None:
        self.name, self.function, self.folder_imports = name, function, folder_imports or contextlib.nullcontext()

    def bind(self, envs: BatchedEnv) -> None:
        """Store the spaces of the agents; the user's function is not called."""
        self._observation_spaces, self._action_spaces = envs.world.observation_spaces, envs.world.action_spaces

    def answer(self, observation: Array, action_mask: Array | None, seat: int) -> Any:
        """Return the function's answer; it receives copies without padding, so that it cannot change the batch."""
        shape = self._observation_spaces[seat].shape
        own_observation = observation[: shape[0]] if len(shape) == 1 else observation
        num_actions = int(getattr(self._action_spaces[seat], "n", 0))
        own_mask = None if action_mask is None else action_mask[:num_actions].copy()
        with self.folder_imports:
            return self.function(own_observation.copy(), own_mask)


class ObjectAgent(CodeAgent):
    """An entrant that calls the methods of a user's object, which implements `Agent`."""

    def __init__(self, name: str, agent: Any, folder_imports: FolderImports | None = None) -> None:
        self.name, self._agent, self.folder_imports = name, agent, folder_imports or contextlib.nullcontext()
        if hasattr(agent, "begin"):  # the user's object needs this method only if it returns a state
            self.begin = self._begin

    def bind(self, envs: BatchedEnv) -> None:
        """See `Agent`; the user's object need not have this method."""
        with self.folder_imports:
            if hasattr(self._agent, "bind"):
                self._agent.bind(envs)

    def set_row_seeds(self, keys: Array, clock: Array) -> None:
        """See `Agent`; the user's object need not have this method."""
        with self.folder_imports:
            if hasattr(self._agent, "set_row_seeds"):
                self._agent.set_row_seeds(keys, clock)

    def _begin(self, state: Any, episode_starts: Array) -> Any:
        """See `Agent.begin`."""
        with self.folder_imports:
            return self._agent.begin(state, episode_starts)

    def act(self, observations: Array, **arguments: Any) -> Any:
        """See `Agent.act`; the result is returned unchecked."""
        with self.folder_imports:
            return self._agent.act(observations, **arguments)


def make(name: str, spec: str) -> Any:
    """Return the agent for `module:callable` or `file.py:callable`.

    An object with a method `act` is used as an `Agent`; a class with this method is instantiated. Any other callable is
    called for every move. Raises UsageError where the code cannot be loaded.
    """
    with _import_errors_as_usage_errors(spec):
        member, folder_imports = load_with_folder_imports(spec)
        with folder_imports or contextlib.nullcontext():
            if hasattr(member, "act"):
                return ObjectAgent(name, member() if isinstance(member, type) else member, folder_imports)
    return FunctionAgent(name, member, folder_imports)


def load_source(spec: str) -> Path:
    """Load the object that `spec` names, and return its source file.

    A class is instantiated as in `make`, so that its errors are known early. For an object that is neither a function
    nor a class, the file is that of its class.

    Raises:
        UsageError: as in `make`; an exception of the code that is not an Exception is raised unchanged.
    """
    with _import_errors_as_usage_errors(spec):
        member, folder_imports = load_with_folder_imports(spec)
        with folder_imports or contextlib.nullcontext():
            file = _source_file_of(spec, member)
            if isinstance(member, type) and hasattr(member, "act"):
                member()
    return file


def _source_file_of(spec: str, member: Any) -> Path:
    """Return the source file of a loaded object. Raises UsageError where it cannot play, or has no source file."""
    if not callable(member) and not hasattr(member, "act"):
        raise UsageError(f"{spec} is not a function and has no method act")
    file = None
    for candidate in (member, type(member)):
        with contextlib.suppress(TypeError):  # it is not a function or class, or it is written in C
            file = file or inspect.getsourcefile(candidate)
    if file is None or not Path(file).is_file():
        raise UsageError(f"{spec} has no source file, so a change of its code could not be detected")
    return Path(file).absolute()


def content_hash(spec: str) -> str:
    """Return the SHA-256 of the source file and of the name in it; the code is loaded in another process."""
    content = source_file(spec).read_bytes()
    return hashlib.sha256(spec.rpartition(":")[2].encode() + b"\0" + content).hexdigest()


@contextlib.contextmanager
def _import_errors_as_usage_errors(spec: str) -> Any:
    """Convert an exception during the import of user code into UsageError, and redirect its output to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        raise UsageError(f"cannot load {spec}: {fault_from_exception(error)[1]}") from None
