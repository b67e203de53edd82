"""Pack a scenario with the user's files that it names, to send it to a process that may run on another machine.

The files are the one of a user's own world and those of a trained opponent. `PackedScenario.unpack`, in the other
process, writes them into the user's cache folder there, and permits the world's code to run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rl_lab.engine.packed_code import PackedCode, pack
from rl_lab.experiments.packed_agent import PackedAgent, pack_agent
from rl_lab.experiments.scenario import Scenario


@dataclass(frozen=True)
class PackedScenario:
    """A scenario, the file of its world if that is the user's own, and its opponent if that is a trained one."""

    scenario: Scenario
    code: PackedCode | None
    opponent: PackedAgent | None

    def unpack(self) -> Scenario:
        """Permit the world's code, write the files where they are missing, and return the scenario for this machine."""
        if self.code is not None:
            self.code.permit()
        if self.opponent is None or self.scenario.opponent is None:
            return self.scenario
        return dataclasses.replace(self.scenario, opponent={**self.scenario.opponent, "path": self.opponent.unpack()})


def pack_scenario(scenario: Scenario) -> PackedScenario:
    """Return the scenario with its files. Raises UsageError where one cannot be read, or code may not run."""
    node = scenario.opponent
    opponent = None
    if node is not None and "path" in node:  # a trained one
        opponent = pack_agent(node["path"], average=bool(node["average"]))
    return PackedScenario(scenario, pack(scenario.world), opponent)
