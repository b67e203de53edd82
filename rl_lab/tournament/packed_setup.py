"""This module packs what matches depend on for a process on another machine: settings, and files of the user.

`ray_pool` calls `pack_setup` on the user's machine and `PackedSetup.unpack` in the workers of a Ray cluster. Packing
reads the files of runs, functions and of a user's world. Unpacking writes the missing ones into the cache folder of
that machine, permits the world's code there, and may add a folder to `sys.path`.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.packed_files import PackedFiles
from rl_lab.engine import user_code
from rl_lab.engine.packed_code import PackedCode, pack, path_below_root
from rl_lab.engine.source_modules import locate
from rl_lab.experiments.packed_agent import PackedAgent, pack_agent
from rl_lab.tournament.code_loading import source_file
from rl_lab.tournament.entrants import Entrant, split_mode
from rl_lab.tournament.matches import MatchSetup


@dataclass(frozen=True)
class PackedFunction:
    """The file of an entrant that is a function. Other files that it imports are not part of it."""

    spec: str
    files: PackedFiles

    def unpack(self) -> str:
        """Return a SPEC (`file.py:callable` or `module:callable`) that names the packed file's content on this machine.

        It is the same SPEC where this names a file of the same content here. Otherwise the file is written; the folder
        of a module is put first in `sys.path`, and then the SPEC is the same one, too.
        """
        (path, content), *_ = self.files.contents.items()
        name, _, member = self.spec.rpartition(":")
        local_file = locate(name, Path.cwd())
        if local_file is not None and local_file.read_bytes() == content:
            return self.spec
        folder = self.files.unpack()
        if name.endswith(".py"):
            return f"{folder / path}:{member}"
        sys.path.insert(0, str(folder))
        return self.spec


@dataclass(frozen=True)
class PackedSetup:
    """A `MatchSetup` whose entrants that are runs or functions come with their files, by the name of the entrant."""

    setup: MatchSetup
    code: PackedCode | None  # of the world
    agents: dict[str, PackedAgent]
    functions: dict[str, PackedFunction]

    def unpack(self) -> MatchSetup:
        """Permit the world's code, write the files where they are missing, and return the setup for this machine."""
        if self.code is not None:
            self.code.permit()
        entrants = tuple(dataclasses.replace(each, spec=self._local_spec(each)) for each in self.setup.entrants)
        return dataclasses.replace(self.setup, entrants=entrants, code=user_code.permitted(self.setup.world))

    def _local_spec(self, entrant: Entrant) -> str:
        """Return the SPEC of an entrant on this machine, where its files are unpacked."""
        if entrant.name in self.functions:
            return self.functions[entrant.name].unpack()
        if entrant.name not in self.agents:
            return entrant.spec
        target, _, _ = split_mode(entrant.spec)
        return self.agents[entrant.name].unpack() + entrant.spec.removeprefix(target)


def pack_setup(setup: MatchSetup) -> PackedSetup:
    """Return a setup with the files of its entrants and its world. Raises UsageError where one cannot be read."""
    agents, functions = {}, {}
    for entrant in setup.entrants:
        if entrant.kind == "run":
            target, mode, value = split_mode(entrant.spec)
            agents[entrant.name] = pack_agent(target, average=mode == "average" and bool(value))
        elif entrant.kind == "function":
            functions[entrant.name] = _pack_function(entrant.spec)
    return PackedSetup(dataclasses.replace(setup, code=None), pack(setup.world), agents, functions)


def _pack_function(spec: str) -> PackedFunction:
    """Read the source file that a SPEC names."""
    name = spec.rpartition(":")[0]
    file = locate(name, Path.cwd()) or source_file(spec)
    (content,) = PackedFiles.read(file.parent, [file]).contents.values()
    return PackedFunction(spec, PackedFiles({path_below_root(name, file): content}))
