"""This module packs the file of a user's own world for a process that may run on a machine without this file.

`pack` reads the file; `PackedCode` can be pickled; `PackedCode.permit` permits the world in the other process, and
writes a copy of the file to the user's cache folder if the file is not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.errors import UsageError
from rl_lab.core.packed_files import PackedFiles
from rl_lab.engine import code_names, user_code
from rl_lab.engine.code_trust import UserCode
from rl_lab.engine.source_modules import digest


@dataclass(frozen=True)
class PackedCode:
    """One file with what the user permitted to run of it. Other files that it imports are not part of it."""

    code: UserCode
    path: str  # below a folder of sys.path, such as "my_world.py" or "package/module.py"
    content: bytes

    def permit(self) -> None:
        """Permit the world in this process, from the file's own place if it is here, else from a copy."""
        code = self.code
        if not (Path(code.file).is_file() and digest(Path(code.file)) == code.sha256):
            folder = PackedFiles({self.path: self.content}).unpack()
            code = dataclasses.replace(code, file=str(folder / self.path))
        user_code.permit(code)


def pack(world: str) -> PackedCode | None:
    """Return the code of a world, None if it is none of the user's. Raises UsageError where it may not run."""
    code = user_code.permitted(world)
    if code is None:
        return None
    parsed, file = code_names.parse(code.world), Path(code.file)
    path = path_below_root(parsed[0] if parsed is not None else file.name, file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != code.sha256:
        raise UsageError(f"{file} has changed since it was loaded")
    return PackedCode(code, path, content)


def path_below_root(name: str, file: Path) -> str:
    """Return the path of a file, FILE.py or the source of a module of this name, below a folder of sys.path."""
    if name.endswith(".py"):
        return file.name
    parts = name.split(".")
    return "/".join([*parts, file.name] if file.name == "__init__.py" else [*parts[:-1], file.name])
