"""This module imports an object by the name that a user typed: module:Name or file.py:Name.

A file is imported under a unique module name, so that one called random.py does not replace Python's module. It can
import modules from its own folder; those of a tournament entrant are visible to that entrant alone, see
`FolderImports`, which swaps entries of sys.modules and sys.path.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from rl_lab.core.errors import UsageError, nearest
from rl_lab.core.interrupts import is_interruption

_STDLIB = tuple(dict.fromkeys(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")))
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))


class FolderImports:
    """A context manager inside which a file's code can import the modules in its folder; other code cannot.

    Folders that the code adds to sys.path are treated alike. Python's own modules take precedence, and so do installed
    ones that are already loaded, so that libraries imported inside get the modules they expect. A folder is listed
    once.
    """

    def __init__(self, folder: Path) -> None:
        self._modules: dict[str, ModuleType] = {}
        self._folders: list[str] = []
        self._names: set[str] = set()
        self._saved_states: list[tuple[dict[str, ModuleType], list[str], int]] = []
        # Modules of the same names from other places, and the length of sys.modules when they were listed.
        self._conflicts: tuple[int, list[str]] = 0, []
        self._stdlib = [path for path in sys.path if path.endswith("lib-dynload") or os.path.realpath(path) in _STDLIB]
        self._add_folder(str(folder))

    def _add_folder(self, folder: str) -> None:
        self._folders.append(folder)
        reserved_names = {"rl_lab", "envs", *sys.stdlib_module_names}
        with suppress(OSError):
            names = {entry.name.partition(".")[0] for entry in os.scandir(folder)}
            self._names |= {name for name in names if name.isidentifier() and name not in reserved_names}

    def __enter__(self) -> FolderImports:
        if len(sys.modules) != self._conflicts[0]:
            packages = {name for name in self._names if name in sys.modules and not _is_installed(sys.modules[name])}
            self._conflicts = len(sys.modules), [name for name in sys.modules if name.partition(".")[0] in packages]
        hidden = {name: sys.modules.pop(name) for name in self._conflicts[1] if name in sys.modules}
        sys.modules.update(self._modules)
        self._saved_states.append((hidden, list(sys.path), len(sys.modules)))
        sys.path[:0] = [*self._stdlib, *self._folders]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        hidden, path, count = self._saved_states.pop()
        for folder in set(sys.path).difference(path, self._stdlib, self._folders):
            self._add_folder(str(folder))
        sys.path[:] = path
        if len(sys.modules) != count:
            packages = {name for name in self._names if name in sys.modules and self._lies_in(sys.modules[name], name)}
            self._modules |= {name: m for name, m in sys.modules.items() if name.partition(".")[0] in packages}
        for name in self._modules:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)

    def publish(self) -> None:
        """Let all code import the modules that were imported so far."""
        for name, module in self._modules.items():
            sys.modules.setdefault(name, module)

    def _lies_in(self, module: ModuleType, name: str) -> bool:
        """Return True if a module lies in the folders, as a file, a package or a folder without __init__.py."""
        inside = {os.path.join(folder, name) for folder in self._folders}
        file = getattr(module, "__file__", None)
        if file is None:
            return not inside.isdisjoint(getattr(module, "__path__", ()))
        return os.path.dirname(file) in inside.union(self._folders)


def _is_installed(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", None)).startswith(_INSTALLED)


def load(target: str) -> Any:
    """Import and return the object that a user named, "module:Name" or "file.py:Name"; importing runs its code.

    Raises:
        UsageError: there is no such object.
    """
    value, folder_imports = load_with_folder_imports(target)
    if folder_imports is not None:
        folder_imports.publish()
    return value


def load_with_folder_imports(target: str) -> tuple[Any, FolderImports | None]:
    """Return the object as `load` does, and for a file the context manager to enter wherever its code is run."""
    location, _, name = target.rpartition(":")
    if not location or not name:
        raise UsageError(f"{target}: expected module:Name, or file.py:Name")
    folder_imports = None
    try:
        if location.endswith(".py"):
            path = Path(location).resolve()
            if not path.is_file():
                raise UsageError(f"no file {location}")
            folder_imports = FolderImports(path.parent)
            module = _import_file(path, folder_imports)
        else:
            module = _import_module(location)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {location}: {error}") from None
    except BaseException as error:  # for example sys.exit
        if isinstance(error, Exception) or is_interruption(error):
            raise
        raise UsageError(f"cannot import {location}: it ends with {type(error).__name__}: {error}") from None
    if not hasattr(module, name):
        raise UsageError(
            f"{location} has no {name!r}; {nearest(name, [n for n in vars(module) if not n.startswith('_')])}"
        )
    return getattr(module, name), folder_imports


def _import_file(path: Path, folder_imports: FolderImports) -> ModuleType:
    stem = re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(f"{stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}", path)
    assert spec is not None and spec.loader is not None  # it ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as `python -c` does; `folder_imports` puts the file's own folder before it
    try:
        with folder_imports:
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
    finally:
        sys.path.remove(folder)
    return module


def _import_module(name: str) -> ModuleType:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as `python -c` does
    try:
        return importlib.import_module(name)
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
