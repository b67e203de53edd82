"""Scenarios as typed data: what is trained, where, for how long, and how it is measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from rl_lab.league.config import LeagueConfig
from rl_lab.learners.pretraining.settings import BackboneSettings

# Overrides that a run's name tells already, or that do not change what is learned.
_NOT_SETTINGS = frozenset(
    "agent seed name run_dir video device threads cluster checkpoint.seconds checkpoint.steps checkpoint.keep_last "
    "evaluation.episodes".split()
)


@dataclass(frozen=True)
class EvaluationConfig:
    """How the agent is measured: in the end, and on other seeds while it learns to choose the one that is kept."""

    episodes: int = 100
    selections: int = 10  # times during training
    selection_episodes: int = 20
    actions: str = "auto"  # greedy or sampled; auto: both, and reported are those by which the agent was chosen
    deterministic: bool = True  # false: the same as actions=sampled


@dataclass(frozen=True)
class CheckpointConfig:
    """When the whole state is saved: by time, never more than 1 % of it, or at every so many steps if not 0."""

    seconds: float = 30.0
    steps: int = 0
    keep_last: int = 3


@dataclass(frozen=True)
class Expectation:
    """What the scenario must reach with an agent, and where the figure is from."""

    mean_return: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Scenario:
    """A fully resolved recipe."""

    name: str
    world: str
    params: dict[str, Any]
    agent: str
    config: Any  # the agent's own Config
    worlds: int
    budget: int
    seed: int
    device: str
    threads: int  # torch's, which its results depend on; the engine and compiled PPO have their own, and do not
    run_dir: str | None
    video: bool
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    expect: dict[str, Expectation]
    opponent: dict[str, Any] | None = None  # the agent at the other seats: its name and hyperparameters
    cluster: str = field(default="local", compare=False)  # of agents that RLlib trains: local, auto, or HOST:PORT
    role: str = ""  # the learner's against an opponent; each in turn if empty
    policies: dict[str, list[str]] = field(default_factory=dict)  # of each policy, whose it is: agents or roles
    league: LeagueConfig | None = None  # the learners that play each other and earlier snapshots
    backbone: BackboneSettings | None = None  # a network trained before, and how this training uses it
    code: dict[str, Any] | None = None  # file and hash of a world that is a user's own; see user_code.Code.record
    overrides: tuple[str, ...] = field(default=(), compare=False)  # key=value as typed; config.yaml has none

    def as_config(self) -> dict[str, Any]:
        """Return plain data that, written to YAML, is the same scenario again."""
        data = dataclasses.asdict(self)
        params, config = data.pop("params"), data.pop("config")
        data["world"] = {"name": self.world, "params": params, **(data.pop("code") or {})}
        data["agent"] = {"name": self.agent, **config}
        if self.backbone is None:
            del data["backbone"]
        if self.cluster != "local":  # an address in a file is not followed, see `scenario_parsing.parse`
            data["cluster"] = "auto"
        del data["run_dir"], data["overrides"]
        return data

    @property
    def settings(self) -> dict[str, str]:
        """Overrides that change what is learned: with the agent's name and the seed they tell runs apart."""
        pairs = (line.partition("=")[::2] for line in self.overrides)
        return {
            key.lstrip("+"): value
            for key, value in pairs
            if key not in _NOT_SETTINGS and (key, value) != ("world", self.name)
        }
