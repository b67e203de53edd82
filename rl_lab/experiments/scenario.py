"""The typed scenario: one frozen dataclass with everything that a training, an evaluation or a video needs to know.

`compose` makes it from a YAML recipe and overrides, `Scenario.as_config` turns it back into a recipe (a run's
config.yaml).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from rl_lab.league.config import LeagueConfig
from rl_lab.learners.pretraining.settings import BackboneSettings

# Overrides that are not listed as settings of a run: its name has them already, or they do not change what is learned.
_NOT_SETTINGS = frozenset(
    "agent seed name run_dir video device threads cluster checkpoint.seconds checkpoint.steps checkpoint.keep_last "
    "evaluation.episodes".split()
)


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of evaluations: at the end, and on other seeds during training, to select the best agent."""

    episodes: int = 100
    selections: int = 10  # number of evaluations during training
    selection_episodes: int = 20
    actions: str = "auto"  # "greedy", "sampled", or "auto" for both; see `action_modes`
    deterministic: bool = True  # false: the same as actions=sampled


@dataclass(frozen=True)
class CheckpointConfig:
    """Settings of checkpoints of the whole state, which are saved by time or, if `steps` is not 0, by steps."""

    seconds: float = 30.0  # between two checkpoints; longer where they would take more than 1 % of the time
    steps: int = 0
    keep_last: int = 3  # older checkpoints are deleted


@dataclass(frozen=True)
class Expectation:
    """The mean return that an agent must reach in the scenario, and the source of that figure."""

    mean_return: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Scenario:
    """A scenario with all its values: the recipe's, the overrides', and the defaults of the rest."""

    name: str
    world: str
    params: dict[str, Any]
    agent: str
    config: Any  # the agent's own Config
    worlds: int  # number of environments
    budget: int  # environment steps in total; each agent's step counts
    seed: int
    device: str
    threads: int  # of torch, whose results depend on it; the engine and the compiled learners have their own threads
    run_dir: str | None
    video: bool
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    expect: dict[str, Expectation]
    # The agent at the other seats: its name and hyperparameters, or a trained one: path, average and sha256.
    opponent: dict[str, Any] | None = None
    cluster: str = field(default="local", compare=False)  # of agents that RLlib trains: local, auto, or HOST:PORT
    role: str = ""  # that the learner has against an opponent; if empty, it has each role in turn
    policies: dict[str, list[str]] = field(default_factory=dict)  # the agents or roles of each policy, by its name
    league: LeagueConfig | None = None  # the learners that play each other and earlier snapshots
    backbone: BackboneSettings | None = None  # a pretrained network, and how this training uses it
    code: dict[str, Any] | None = None  # file and hash of a user's own world; see user_code.Code.record
    overrides: tuple[str, ...] = field(default=(), compare=False)  # key=value as typed; not in config.yaml

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
        """The overrides that change what is learned. With the agent and the seed they tell runs of a scenario apart."""
        pairs = (line.partition("=")[::2] for line in self.overrides)
        return {
            key.lstrip("+"): value
            for key, value in pairs
            if key not in _NOT_SETTINGS and (key, value) != ("world", self.name)
        }
