"""This module executes the user's source files as Python modules, but only content that is permitted.

`user_code` decides which files may run. A file is executed once for each content, from the very bytes whose hash was
permitted, so no compiled copy beside the file is used. It writes to sys.modules and sys.path.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

from rl_lab.core.errors import UsageError
from rl_lab.core.interrupts import is_interruption

_HASH_ATTRIBUTE = "__rl_lab_sha256__"  # the attribute of a module that holds its file's hash
_loading: list[str] = []  # files that are being executed


def digest(file: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits. Raises UsageError if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def locate(target: str, folder: Path) -> Path | None:
    """Return the source file of FILE.py or of a module, relative to a folder, without an import; None without one."""
    if target.endswith(".py"):
        return (folder / target).resolve() if (folder / target).is_file() else None
    parts = target.split(".")
    for place in [str(folder), *sys.path]:
        stem = Path(place or ".").joinpath(*parts)
        for file in (stem / "__init__.py", stem.with_name(stem.name + ".py")):
            if file.is_file():
                return file.resolve()
    return None


def refuse_while_loading() -> None:
    """Raise UsageError if one of the user's files is being executed: a file that is only loaded must not train."""
    if _loading:
        raise UsageError(f'{_loading[-1]} trains when it is imported: put that under `if __name__ == "__main__":`')


class _OtherFileError(UsageError):
    """The file that would be executed is not the one that is permitted."""


@cache
def execute_file(file: str, sha256: str, module_name: str) -> ModuleType:
    """Execute a file's content of this hash, and return the module; `module_name` is its name, "" for a single file.

    Raises UsageError if the content has another hash or the name belongs to another file, WorldError for an exception
    in the file.
    """
    from rl_lab.engine import diagnostics

    path = Path(file)
    folder = str(_import_root(path, module_name) if module_name else path.parent)
    _loading.append(file)
    sys.path.insert(0, folder)  # as `python FILE` does; afterwards it is the last entry, for later imports
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Overriding environment")  # if the file has changed
            return _import(path, sha256, module_name) if module_name else _execute(path, sha256)
    except _OtherFileError:
        raise
    except BaseException as error:  # SystemExit, too, because a file must not end the process
        if is_interruption(error):
            raise
        raise diagnostics.explain_import_error(error, {file}) from error
    finally:
        _loading.remove(file)
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _execute(path: Path, sha256: str) -> ModuleType:
    """Execute a single file as a module of a unique name."""
    # The name is unique, so that a file called random.py does not replace Python's module.
    module = ModuleType(f"rl_lab_user_code.{sha256[:12]}.{path.stem}")
    module.__file__, module.__package__ = str(path), ""  # as Python loads a script: it is not part of a package
    _execute_content(module, path, sha256)
    return module


def _execute_content(module: ModuleType, path: Path, sha256: str) -> None:
    """Execute a file's bytes in a module, if they have this hash; a compiled copy of the file is not used."""
    source = path.read_bytes()
    if hashlib.sha256(source).hexdigest() != sha256:
        raise _OtherFileError(f"{path} has changed since it was permitted to run")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise


def _import(path: Path, sha256: str, module_name: str) -> ModuleType:
    """Import a module by its name, if that is the name of this file. Raises UsageError otherwise."""
    module = sys.modules.get(module_name)
    if module is not None and (_resolved_file(module) != path or getattr(module, _HASH_ATTRIBUTE, sha256) != sha256):
        del sys.modules[module_name]
        module = None
    if module is None:
        importlib.invalidate_caches()
        module_path = path.parent if path.name == "__init__.py" else path.with_suffix("")
        parts = tuple(module_name.split("."))
        # The names of the folders are compared first, because find_spec imports the packages above the module.
        spec = importlib.util.find_spec(module_name) if module_path.parts[-len(parts) :] == parts else None
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != path:
            raise _OtherFileError(
                f"{path} is not the module {module_name}: Python finds another one by that name, or none"
            )
        module = importlib.util.module_from_spec(spec)
        _execute_content(module, path, sha256)
        parent, _, last = module_name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    setattr(module, _HASH_ATTRIBUTE, sha256)
    return module


def _resolved_file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def _import_root(file: Path, module_name: str) -> Path:
    """Return the folder in sys.path from which a module is imported."""
    module_path = file.parent if file.name == "__init__.py" else file
    return module_path.parents[module_name.count(".")]
