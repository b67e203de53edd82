"""Read the parts of a whole-state checkpoint: the environments' state, the best agent so far, and the learner.

A whole-state checkpoint is one of a run's folder `checkpoints/`, from which training resumes. Its members (safetensors
files) are those of the learner, one with the environments' state, and copies of the best agent's members under names
with a prefix. `trainer` writes and restores it; `agent_loading` takes an agent from it, for RUN@STEP. Nothing is
written here.
"""

from __future__ import annotations

import copy

import numpy as np

from rl_lab.core.agent import StateDict
from rl_lab.core.checkpoint import Checkpoint, Tensors
from rl_lab.core.untrusted import checked_type
from rl_lab.experiments.scenario import Scenario
from rl_lab.multiagent.multi_policy import split

ENVS = "world"  # the name on disk of the member with the environments' state
_MAX_COPIED_BYTES = 2**26  # of a state that `copy_of` copies, which takes about 0.01 s
BEST_PREFIX = "kept-"  # of the names on disk of the best agent's members; no policy's name contains a hyphen


def is_whole_state(loaded: Checkpoint) -> bool:
    """Return whether this is the whole state of a training, and not an agent or a snapshot of a league."""
    return ENVS in loaded.tensors


def best_agent_tensors(loaded: Checkpoint) -> dict[str, Tensors]:
    """Return the members of the best agent under the names that they have in the agent's own checkpoint."""
    tensors = loaded.tensors.items()
    return {name.removeprefix(BEST_PREFIX): arrays for name, arrays in tensors if name.startswith(BEST_PREFIX)}


def learner_tensors(loaded: Checkpoint) -> dict[str, Tensors]:
    """Return the members of the learner."""
    return {
        name: arrays for name, arrays in loaded.tensors.items() if name != ENVS and not name.startswith(BEST_PREFIX)
    }


def learner_state(loaded: Checkpoint, scenario: Scenario) -> StateDict:
    """Return the state of the learner whose agent the run saves: in a league, that of the first main agent.

    Raises KeyError or ValueError where the state has another form.
    """
    state_dict = StateDict(learner_tensors(loaded), checked_type(loaded.state["learner"], "learner", dict))
    if scenario.league is None:
        return state_dict
    main = next(iter(scenario.league.learners()))
    learners = checked_type(state_dict.state["learners"], "learners", dict)
    return split(StateDict(state_dict.tensors, learners), [main])[main]


def as_agent(loaded: Checkpoint, scenario: Scenario) -> Checkpoint:
    """Return the learner's agent as the checkpoint of an agent would hold it, with all the learner's tensors.

    `deterministic` is that of the evaluation that chose the best agent so far, None if there is none. Raises as
    `learner_state`.
    """
    learner = learner_state(loaded, scenario)
    best = checked_type(loaded.state["training"], "training", dict)["kept"]  # the best agent, by its name on disk
    deterministic = checked_type(best["state"], "training: kept: state", dict).get("deterministic") if best else None
    return Checkpoint(loaded.path, loaded.step, learner.tensors, {**learner.state, "deterministic": deterministic})


def copy_of(state: Checkpoint) -> Checkpoint | None:
    """Return a copy of a whole state with arrays of its own; None where it is too large to be copied each iteration."""
    if sum(array.nbytes for arrays in state.tensors.values() for array in arrays.values()) > _MAX_COPIED_BYTES:
        return None
    tensors = {
        member: {name: np.array(array) for name, array in arrays.items()} for member, arrays in state.tensors.items()
    }
    return Checkpoint(state.path, state.step, tensors, copy.deepcopy(state.state))
