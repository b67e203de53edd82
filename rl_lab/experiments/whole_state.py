"""The parts of a whole-state checkpoint: the worlds, the best agent so far, and the learner."""

from __future__ import annotations

from rl_lab.core.agent import StateDict
from rl_lab.core.checkpoint import Checkpoint, Tensors
from rl_lab.core.untrusted import of_kind
from rl_lab.experiments.scenario import Scenario
from rl_lab.multiagent.multi_policy import split

WORLD = "world"  # the member of the environments
BEST_PREFIX = "kept-"  # precedes the members of the best agent; no policy's name contains a hyphen


def is_whole_state(loaded: Checkpoint) -> bool:
    """Return whether this is the whole state of a training, and not an agent or a snapshot of a league."""
    return WORLD in loaded.tensors


def best_agent_tensors(loaded: Checkpoint) -> dict[str, Tensors]:
    """Return the members of the best agent under the names that they have in the agent's own checkpoint."""
    tensors = loaded.tensors.items()
    return {name.removeprefix(BEST_PREFIX): arrays for name, arrays in tensors if name.startswith(BEST_PREFIX)}


def learner_tensors(loaded: Checkpoint) -> dict[str, Tensors]:
    """Return the members of the learner."""
    tensors = loaded.tensors.items()
    return {name: arrays for name, arrays in tensors if name != WORLD and not name.startswith(BEST_PREFIX)}


def learner_state(loaded: Checkpoint, scenario: Scenario) -> StateDict:
    """Return the state of the learner whose agent a run keeps: in a league, that of the first main agent.

    Raises KeyError or ValueError where the state has another form.
    """
    saved = StateDict(learner_tensors(loaded), of_kind(loaded.state["learner"], "learner", dict))
    if scenario.league is None:
        return saved
    main = next(iter(scenario.league.learners()))
    learners = of_kind(saved.state["learners"], "learners", dict)
    return split(StateDict(saved.tensors, learners), [main])[main]


def as_agent(loaded: Checkpoint, scenario: Scenario) -> Checkpoint:
    """Return the learner's agent as the checkpoint of an agent would hold it.

    Whether it takes its most probable actions was decided at the last selection that kept an agent. Raises as
    `learner_state`.
    """
    learner = learner_state(loaded, scenario)
    best = of_kind(loaded.state["training"], "training", dict)["kept"]
    chosen = of_kind(best["state"], "training: kept: state", dict).get("deterministic") if best else None
    return Checkpoint(loaded.path, loaded.step, learner.tensors, {**learner.state, "deterministic": chosen})
