"""A generative policy's network and its form in the checkpoint of an agent: saved, and loaded with all checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from rl_lab.core.agent import StateDict
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.untrusted import checked_array
from rl_lab.learners.pretraining.contract import contract_of, read_contract, require_same

# The name of the network's tensors in an agent's checkpoint, as in other agents. The hash of an agent covers what has
# this name.
POLICY_TENSORS = "policy"
_Network = TypeVar("_Network", bound=nn.Module)


def as_state(network: nn.Module, world: EnvSpec) -> StateDict:
    """Return the tensors and the JSON that an agent's checkpoint keeps of a network trained for this world."""
    tensors = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    return StateDict(
        {POLICY_TENSORS: tensors}, {"observation": contract_of(world.observation).as_json(), "deterministic": True}
    )


def load_network(
    make: Callable[[], _Network], world: EnvSpec, state_dict: StateDict, *, device: str, agent: str
) -> _Network:
    """Return the network that `make` makes, with the saved parameters, in evaluation mode.

    Raises ValueError or KeyError where the parameters do not fit, and where the world has other observations.
    """
    require_same(read_contract(state_dict.state["observation"]), contract_of(world.observation), agent, world.name)
    arrays = state_dict.tensors[POLICY_TENSORS]
    with torch.device("meta"):  # only shapes are made, so that a file can ask for no memory beyond its own size
        expected = make().state_dict()
    if differing := sorted(set(expected) ^ set(arrays)):
        raise ValueError(f"{differing[0]:.80} is missing or unknown")
    for name, tensor in expected.items():
        like = np.broadcast_to(torch.zeros((), dtype=tensor.dtype).numpy(), tuple(tensor.shape))
        checked_array(arrays[name], name, like)
    with torch.random.fork_rng(devices=[]):  # the initial parameters, which are replaced, cost no random numbers
        network = make()
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
    return network.to(device).eval()


def require_same_spaces(agent: str, world: EnvSpec) -> None:
    """Raise ValueError where the agents of a world have different spaces: one policy acts for all of them."""
    spaces: tuple[Any, ...]
    for spaces in (world.observation_spaces, world.action_spaces):
        if any(space != spaces[0] for space in spaces):
            raise ValueError(f"{agent} needs agents with the same spaces; those of {world.name} differ")
