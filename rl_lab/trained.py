"""Agents that were trained: found in a run's or a checkpoint's folder, loaded safely, and known by what they are."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import batch, catalogue, checkpoint
from . import run as runs
from .agent import Agent, Saved
from .batch import WorldInfo
from .casting import seats_of
from .league.actors import Asked, layers_of, together
from .league.averaged import AveragedAgent
from .league.pool import FOLDER, content_hash
from .league.roster import Roster
from .names import UsageError
from .rivals import Rivals
from .run import Run
from .scenario import Scenario
from .seated import Seated
from .team import SeatsView, Table, TeamAgent, split


def device_of(name: str) -> str:
    """Return "cpu" or "cuda" for a scenario's device; ValueError for cuda where there is none."""
    if name == "cpu":
        return "cpu"
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: this machine has no CUDA device; use device=auto or device=cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a checkpoint's content is taken up into one line: its hashes may all be right."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UsageError(f"{path}: does not fit this scenario and this version: {reason}") from error


def load_agent(path: Path, scenario: Scenario) -> tuple[Agent, int]:
    """Return the agent kept in a checkpoint folder and its step. Raises UsageError where nothing valid is there."""
    found = _read(path)
    return _agent(found, scenario), found.step


def _read(path: Path) -> checkpoint.Checkpoint:
    """Return a checkpoint's folder's content, or of a folder of them the newest valid one's."""
    if (path / "manifest.json").exists():
        return checkpoint.load(path)
    found, refused = checkpoint.latest(path)
    if found is not None:
        return found
    if refused:
        raise checkpoint.CheckpointError("; ".join(refused))
    raise UsageError(f"{path} holds no agent yet: train it first")


def _agent(found: checkpoint.Checkpoint, scenario: Scenario) -> Agent:
    factory = catalogue.load(scenario.agent)
    worlds = batch.make(scenario.world, 1, scenario.params)
    saved = Saved(found.tensors, found.state)
    with fitting(found.path):
        agent: Agent
        device = device_of(scenario.device)
        if scenario.policies:
            policies = seats_of(worlds.world, scenario.policies)
            agents: dict[str, Agent] = {}
            for name, part in split(saved, list(policies)).items():
                view = SeatsView(worlds, policies[name], Table(worlds))
                agents[name] = factory.load(scenario.config, view.world, part, device=device)
            agent = TeamAgent(agents, policies)
        else:
            alone = scenario.opponent is None and scenario.league is None
            seat = worlds if alone else Seated(worlds, [], role=scenario.role)
            agent = factory.load(scenario.config, seat.world, saved, device=device)
    worlds.close()
    return agent


def locate(path: str) -> tuple[Run, Path]:
    """Return the run that `path` means, and the folder of the agent it means: that, or those it keeps the newest of.

    It is a run's folder or the beginning of its name, for the agent it kept; or inside a run a checkpoint's folder, or
    a league's member's, `RUN/league/NAME`. Raises UsageError where it is none of them.
    """
    folder = Path(path)
    single = (folder / "manifest.json").is_file()
    if single or any(folder.glob("step-*/manifest.json")):
        # agent/step-..., checkpoints/step-... or league/main/step-...
        above = [p for p in folder.absolute().parents[:3] if (p / "config.yaml").is_file()]
        if not above:
            raise UsageError(f"{path} is not inside a run: its config.yaml is missing")
        inside = folder.absolute().relative_to(above[0])
        named = len(folder.parts) - len(inside.parts)
        return Run(Path(*folder.parts[:named]) if named >= 0 else above[0]), folder
    run = runs.find(path)
    return run, run.agent


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A trained agent that stays as it is: `path` as for `locate`; `average`: of all that a league froze of it.

    `sha256` is what its content must be; empty before anybody has looked.
    """

    path: str
    average: bool = False
    sha256: str = ""

    def seen(self) -> Frozen:
        """Return it with its content's hash. Raises as `checkpoints` does."""
        return dataclasses.replace(self, sha256=self._digest(*self._checkpoints()))

    def _checkpoints(self) -> tuple[Scenario, list[checkpoint.Checkpoint]]:
        """Return how it was trained, and its checkpoints. Raises UsageError where there are none, or others."""
        run, folder = locate(self.path)
        scenario = dataclasses.replace(run.scenario(), device="cpu")
        if not self.average:
            return scenario, [_read(folder)]
        of = folder if folder != run.agent else run.path / FOLDER / "main"
        members = sorted(of.glob("step-*/manifest.json"), key=lambda file: int(file.parent.name[5:]))
        if not members:
            raise UsageError(f"{self.path} has no average: no league has frozen anything in {of}")
        return scenario, [checkpoint.load(file.parent) for file in members]

    def _digest(self, scenario: Scenario, found: list[checkpoint.Checkpoint]) -> str:
        said = [scenario.agent, repr(scenario.config), repr(scenario.policies), str(self.average)]
        said += [content_hash(each.tensors) for each in found]
        return hashlib.sha256("\0".join(said).encode()).hexdigest()

    def _sound(self, world: WorldInfo) -> tuple[Scenario, list[checkpoint.Checkpoint]]:
        scenario, found = self._checkpoints()
        if self.sha256 and (now := self._digest(scenario, found)) != self.sha256:
            raise UsageError(f"{self.path} is not who it was: SHA-256 {now[:12]}..., not {self.sha256[:12]}...")
        if scenario.world != world.name:
            raise UsageError(f"{self.path} was trained in {scenario.world}, not in {world.name}")
        return scenario, found

    def agent(self, world: WorldInfo) -> Agent:
        """Return it as an agent. Raises UsageError where it is not who it was, or cannot play this world."""
        scenario, found = self._sound(world)
        return self._drawing(world, scenario, found) if self.average else _agent(found[0], scenario)

    def drawing(self, world: WorldInfo) -> AveragedAgent:
        """Return it as an agent that draws its actions; ValueError where it cannot tell probabilities."""
        return self._drawing(world, *self._sound(world))

    def _drawing(self, world: WorldInfo, scenario: Scenario, found: list[checkpoint.Checkpoint]) -> AveragedAgent:
        name = f"{scenario.agent}-average" if self.average else scenario.agent
        layers = [own for each in found if (own := layers_of(each.tensors, scenario.config, world)) is not None]
        if len(layers) == len(found):
            return AveragedAgent(name, together(scenario.config.activation, layers), len(found))
        agents = [_agent(each, scenario) for each in found]
        if not all(hasattr(agent, "probabilities") for agent in agents):
            raise UsageError(f"{self.path}: {name} does not tell how likely its actions are")
        return AveragedAgent(name, Asked(agents), len(found))

    def rivals(self, world: WorldInfo) -> Rivals:
        """Return it as whom a learner meets: it draws its actions, a world's own. Errors are those of `agent`."""
        scenario, found = self._sound(world)
        if scenario.policies:
            return Rivals([_agent(found[0], scenario)])
        return rivals_of(self._drawing(world, scenario, found))


def rivals_of(agent: AveragedAgent) -> Roster:
    """Return an agent's policies as whom a learner meets, each episode one of them."""
    roster = Roster([None] * agent.count)
    roster.actors, roster.chances[:] = agent.actors, 1.0 / agent.count
    return roster


def frozen(node: dict[str, Any]) -> Frozen:
    """Return what a recipe's mapping says."""
    return Frozen(str(node["path"]), bool(node["average"]), str(node["sha256"]))
