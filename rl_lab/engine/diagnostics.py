"""This module explains errors in a world's file in one line: the file, the line and, where it is known, the remedy.

`batch_faults`, `first_start` and the loaders of worlds call it with an exception, and raise what it returns. Some
functions run the kernels once more as plain Python, because its errors name the line; nothing is written.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable
from pathlib import Path

from rl_lab.core.endless_loops import LoopError
from rl_lab.core.errors import nearest, one_line, without_colours
from rl_lab.core.kernel import reachable_kernels
from rl_lab.core.stop_flag import check_flag
from rl_lab.core.world import World, WorldError
from rl_lab.engine.compiler import CompilerError, cache_folder

_HOME_MODULES = dict.fromkeys(("integers", "uniform", "normal", "bits"), "rl_lab.core.rng")
_HOME_MODULES |= dict.fromkeys(("sin", "cos"), "rl_lab.core.trig")
# Keywords of World in rl_lab 0.1, and what other libraries call the same -> World's keyword.
_WORLD_KEYWORD_ALIASES = dict.fromkeys(("legal", "legal_actions", "mask", "valid_actions"), "action_mask")
_WORLD_KEYWORD_ALIASES |= dict.fromkeys(
    ("turns", "current_player", "to_move", "player", "agent_selection"), "current_player_field"
)
_WORLD_KEYWORD_ALIASES |= dict.fromkeys(("max_steps", "max_episode_steps", "episode_length", "time_limit"), "horizon")
_WORLD_KEYWORD_ALIASES |= dict.fromkeys(("render", "render_fn", "picture"), "draw")
_WORLD_KEYWORD_ALIASES |= dict.fromkeys(("num_agents", "n_agents", "possible_agents", "players"), "agents")
_WORLD_KEYWORD_ALIASES |= {"obs": "observation", "fps": "frames_per_second", "render_fps": "frames_per_second"}
_WORLD_KEYWORD_ALIASES |= {"present": "alive_field", "swap": "rotate_seats", "forfeit": "illegal_action_reward"}
_WORLD_KEYWORD_ALIASES |= {
    "policy": "expert",
    "scripted": "expert",
    "solved": "reward_threshold",
    "alive": "alive_field",
}
FIELD_TYPES = "field types are f4 f8 i1 i2 i4 i8 u1 u2 u4 u8, with a shape like u1[10, 10] for arrays"


def authored_files(world: World) -> set[str]:
    """Return the files that a world's kernels are written in; the lab's own kernels are not among them."""
    kernels = [
        world.reset,
        world.step,
        world.observe,
        world.action_mask,
        world.expert,
        world.novice,
        world.rotate_seats,
    ]
    functions = {function for kernel in kernels if kernel for function in reachable_kernels(kernel)}
    return {f.__code__.co_filename for f in functions if f.__module__ not in ("rl_lab.core.rng", "rl_lab.core.trig")}


def author_location(error: BaseException, files: set[str] | None) -> str:
    """Return "file:line function: " of the last line in one of these files that led to the error, "" where none did.

    None: in any file but the lab's and Python's own.
    """
    lab_folder, frames = Path(__file__).parents[1], []
    for frame in traceback.extract_tb(error.__traceback__):
        elsewhere = not frame.filename.startswith("<") and not Path(frame.filename).is_relative_to(lab_folder)
        if elsewhere if files is None else frame.filename in files:
            frames.append(frame)
    return f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}: " if frames else ""


def explain_import_error(error: BaseException, files: set[str]) -> WorldError:
    """Return what an error says that importing one of these files has raised."""
    if isinstance(error, WorldError):
        return error
    if isinstance(error, SyntaxError):
        # A file with a null byte is refused before it is read, and neither its name nor a line is told.
        line = "" if error.lineno is None else f":{error.lineno}"
        return WorldError(f"{error.filename or min(files, default='the file')}{line}: {error.msg}")
    return WorldError(one_line(f"{author_location(error, files)}{message_with_hint(error)}"))


def message_with_hint(error: BaseException) -> str:
    """Return an error's kind and message, and what to do about it where a world's file is likely to have raised it."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    if missing := re.search(r"World\.__init__\(\) missing .* arguments?: (.*)", text):
        return f"World(...) needs {missing[1]}: kernels are functions marked @kernel, see World's docstring"
    if unknown := re.search(r"World\.__init__\(\) got an unexpected keyword argument '(.*?)'", text):
        keyword = _WORLD_KEYWORD_ALIASES.get(unknown[1])
        near = f"did you mean {keyword!r}?" if keyword else nearest(unknown[1], inspect.signature(World).parameters)
        return f"World(...) has no keyword {unknown[1]!r}; {near}"
    if (missing_name := re.search(r"cannot import name '(\w+)' from 'rl_lab.core.world'", text)) and missing_name[
        1
    ] in _HOME_MODULES:
        return f"{missing_name[1]} is in {_HOME_MODULES[missing_name[1]]}: import it from there"
    if "relative import with no known parent package" in text:
        return f"{text}; a file is no part of a package: import what lies beside it without the dot, or name the module"
    return f"{text}; {FIELD_TYPES}" if "is not subscriptable" in text else text


def explain_compiler_error(text: str, files: set[str] | None) -> str:
    """Return numba's message as one line: the author's line it is about, and what cannot be done there."""
    text = without_colours(text)
    pattern = r'File "([^"]+)", line (\d+)|Raised from (\S+) \((\d+)\)'
    locations = [
        (str(Path(a or c).resolve()), b or d) for a, b, c, d in re.findall(pattern, text)
    ]  # relative, they are
    location = next((f"{path}:{line} " for path, line in locations if files is None or path in files), "")
    lines = [re.sub(pattern, "", line).strip() for line in text.splitlines() if not line.startswith("Failed in")]
    message = " ".join([line for line in lines if line.strip(":.") and not line.startswith(("def ", "<source"))][:2])
    return f"{location}does not compile: {message[:240]}; what kernels may do is in CONTRIBUTING.md"


def explain_compile_error(
    world: World, error: Exception, play: Callable[[], object]
) -> WorldError | CompilerError | None:
    """Return what an error says that came out of numba, None for others; `play` plays a little as plain Python.

    That often fails too, at the very line, and says more than numba does. Where it does not, only an error that numba
    raises about the code it compiles is the world's; the rest (files, memory, LLVM, numba's settings) is not. Raises
    KeyboardInterrupt where a signal has stopped the compilation, of which numba may make another error.
    """
    check_flag()
    if not any("/numba/core/" in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
        return None
    if plain_error := _error_as_plain_python(world, play):
        return plain_error
    if not any(kind.__module__ == "numba.core.errors" for kind in type(error).__mro__):
        text = f"{world.name} could not be compiled or loaded: {type(error).__name__}: {error}"
        return CompilerError(one_line(f"{text}; its file may be right: see rl-lab doctor, and {cache_folder()}"))
    message = explain_compiler_error(str(error), authored_files(world))
    return WorldError(
        one_line(message if message.startswith("/") else f"{world.name} {message}; see rl-lab check {world.name}")
    )


def explain_runtime_error(world: World, play: Callable[[], object]) -> WorldError:
    """Return what to say of a compiled step that raised an exception; `play` as for `explain_compile_error`."""
    general = f"{world.name}: its step or observe raised an exception, compiled; see rl-lab check {world.name}"
    return _error_as_plain_python(world, play) or WorldError(general)


def _error_as_plain_python(world: World, play: Callable[[], object]) -> WorldError | None:
    """Return the error that the world's kernels raise as plain Python, or None if they raise none."""
    try:
        play()
    except LoopError as endless:
        return WorldError(one_line(endless))
    except Exception as plain:
        if message := explain_plain_error(plain, authored_files(world)):
            return WorldError(one_line(message))
    return None


def explain_plain_error(error: BaseException, files: set[str]) -> str:
    """Return the message, with file and line, of an error that plain Python raised in one of these files, else ""."""
    location = author_location(error, files)
    if isinstance(error, RecursionError):
        return f"{location}calls itself without end: write a loop" if location else ""
    if isinstance(error, IndexError) and "only integers" in str(error):
        return f"{location}an index is a whole number: write int(...)" if location else ""
    advice = "; compiled code would write there all the same" if isinstance(error, IndexError) else ""
    return f"{location}{message_with_hint(error)}{advice}" if location else ""
