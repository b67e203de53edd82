"""What is wrong in a world's file, said in one line: the file, the line and, where it is known, the fix."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

from .kernel import reached
from .names import one_line
from .world import World, WorldError

FIELD_TYPES = "field types are f4 f8 i1 i2 i4 i8 u1 u2 u4 u8, with a shape like u1[10, 10] for arrays"


def authored_files(world: World) -> set[str]:
    """Return the files that a world's kernels are written in; the lab's own kernels are not among them."""
    kernels = [world.reset, world.step, world.observe, world.legal, world.expert, world.novice, world.swap]
    functions = {function for kernel in kernels if kernel for function in reached(kernel)}
    return {f.__code__.co_filename for f in functions if f.__module__ not in ("rl_lab.rng", "rl_lab.trig")}


def place_of(error: BaseException, files: set[str] | None) -> str:
    """Return "file:line function: " of the last line in one of these files that led to the error, "" where none did.

    None: in any file but the lab's and Python's own.
    """
    ours, frames = Path(__file__).parent, []
    for frame in traceback.extract_tb(error.__traceback__):
        elsewhere = not frame.filename.startswith("<") and Path(frame.filename).parent != ours
        if elsewhere if files is None else frame.filename in files:
            frames.append(frame)
    return f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}: " if frames else ""


def of_import(error: Exception, files: set[str]) -> WorldError:
    """Return what an error says that importing one of these files has raised."""
    if isinstance(error, WorldError):
        return error
    if isinstance(error, SyntaxError):
        return WorldError(f"{error.filename}:{error.lineno}: {error.msg}")
    return WorldError(one_line(f"{place_of(error, files)}{advised(error)}"))


def advised(error: BaseException) -> str:
    """Return an error's kind and message, and what to do about it where a world's file is likely to have raised it."""
    text = f"{type(error).__name__}: {error}"
    if missing := re.search(r"World\.__init__\(\) missing .* arguments?: (.*)", text):
        return f"World(...) needs {missing[1]}: kernels are functions marked @kernel, see World's docstring"
    return f"{text}; {FIELD_TYPES}" if "is not subscriptable" in text else text


def of_compiler(text: str, files: set[str] | None) -> str:
    """Return numba's message as one line: the author's line it is about, and what cannot be done there."""
    pattern = r'File "([^"]+)", line (\d+)|Raised from (\S+) \((\d+)\)'
    places = [(str(Path(a or c).resolve()), b or d) for a, b, c, d in re.findall(pattern, text)]  # relative, they are
    place = next((f"{path}:{line} " for path, line in places if files is None or path in files), "")
    lines = [re.sub(pattern, "", line).strip() for line in text.splitlines() if not line.startswith("Failed in")]
    said = " ".join([line for line in lines if line.strip(":.") and not line.startswith(("def ", "<source"))][:2])
    return f"{place}does not compile: {said[:240]}; what kernels may do is in CONTRIBUTING.md"


def of_compiling(world: World, error: Exception, play: Callable[[], object]) -> WorldError | None:
    """Return what an error says that came out of numba, None for others; `play` plays a little as plain Python.

    That often fails too, at the very line, and says more than numba does.
    """
    if not any("/numba/core/" in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
        return None
    if found := _of_playing(world, play):
        return found
    said = of_compiler(str(error), authored_files(world))
    return WorldError(one_line(said if said.startswith("/") else f"{world.name} {said}; see rl-lab check {world.name}"))


def of_running(world: World, play: Callable[[], object]) -> WorldError:
    """Return what to say of a compiled step that raised an exception; `play` as for `of_compiling`."""
    general = f"{world.name}: its step or observe raised an exception, compiled; see rl-lab check {world.name}"
    return _of_playing(world, play) or WorldError(general)


def _of_playing(world: World, play: Callable[[], object]) -> WorldError | None:
    try:
        play()
    except Exception as plain:
        if place := place_of(plain, authored_files(world)):
            return WorldError(one_line(f"{place}{advised(plain)}"))
    return None
