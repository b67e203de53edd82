"""A scenario with the files of the user that it names, packed for a process that may run on another machine."""

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
    trained = node is not None and "path" in node
    opponent = pack_agent(node["path"], average=bool(node["average"])) if node is not None and trained else None
    return PackedScenario(scenario, pack(scenario.world), opponent)
