"""The benchmarks `env`, `rollout` and `train`, which measure the lab and installed peers in alternation.

`env` steps environments with random actions, `rollout` adds the policy's actions, and `train` includes updates.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Collection
from typing import Any

from rl_lab.bench import env_throughput, peer_gymnax, peers_multiagent, train_throughput
from rl_lab.bench.settings import MANY, SETTINGS, Setting, named
from rl_lab.bench.timing import alternate
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import world_registry

PEERS = {"env": tuple(env_throughput.PEERS), "rollout": train_throughput.PEERS, "train": train_throughput.PEERS}
_PEER_DEFAULT = SETTINGS["small"]  # the setting of peers where none is named, with sizes that are usual for them

_RLLIB = "rllib"  # the setting of the peer of this name, which is measured beside the lab's rllib_ppo


def bench(
    kind: str,
    world: str,
    *,
    num_envs: int = 1024,
    setting: str = "",
    against: tuple[str, ...] = (),
    rounds: int = 5,
    seconds: float = 1.0,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Return a row for each contender, the lab first; `timing.alternate` describes the rows.

    All learners have the same setting. Without a setting, the lab has `num_envs` environments, and peers have a setting
    that is usual for them. `threads` is the number of torch's threads. Raises UsageError as `check` does.
    """
    check(kind, world, against)
    setting = setting or _RLLIB * ("rllib" in against)
    if kind == "env":
        is_multi_agent = len(world_registry.load(world).agents) > 1
        interface = peers_multiagent.lab_pettingzoo if is_multi_agent else env_throughput.lab_vector
        contenders = [env_throughput.engine(world, num_envs), interface(world, num_envs)]
        contenders += [env_throughput.PEERS[peer](world, num_envs) for peer in against]
        # Peers are compared with the lab through the same interface, which is contender 1.
        return alternate(contenders, 1, rounds=rounds, seconds=seconds)
    lab_setting, peer_setting = sizes(setting, num_envs)
    for peer in against:
        if (peer == "rllib") != (lab_setting.agent == "rllib_ppo"):
            raise UsageError(
                f"{peer} is not measured with setting {setting or 'small'}: rllib is, with setting rllib alone"
            )
    if kind == "rollout" and lab_setting.agent == "dqn":
        raise UsageError(f"bench rollout measures PPO's rollouts; setting {setting} is {lab_setting.agent}'s")
    contenders = [train_throughput.contender("lab", kind, world, lab_setting)]
    for peer in against:
        peers_own = lab_setting if peer == "stock" else peer_setting
        contenders.append(train_throughput.contender(peer, kind, world, peers_own, threads=threads))
    if setting:
        contenders = [dataclasses.replace(c, more={"setting": setting}) for c in contenders]
    return alternate(contenders, 0, rounds=rounds, seconds=seconds)


def sizes(setting: str, num_envs: int) -> tuple[Setting, Setting]:
    """Return the settings of the lab and of the peers, which are the same where a setting is named."""
    if setting:
        return named(setting), named(setting)
    # With many environments, a learner needs large minibatches. With few, the lab has the setting of the peers.
    lab_setting = SETTINGS["wide" if num_envs >= MANY else "small"]
    return dataclasses.replace(lab_setting, num_envs=num_envs), _PEER_DEFAULT


def check(kind: str, world: str, against: Collection[str]) -> None:
    """Raise UsageError for a peer that is unknown, is not installed or does not have this world."""
    for peer in against:
        if peer not in PEERS[kind]:
            raise UsageError(f"bench {kind} has no peer {peer!r}; {nearest(peer, PEERS[kind])}")
        if importlib.util.find_spec(train_throughput.MODULES.get(peer, peer)) is None:
            extra = {"sbx": "sbx", "gymnax": "gymnax", "rllib": "rllib"}.get(peer, "bench")
            raise UsageError(f"{peer} is not installed: pip install 'rl-lab[{extra}]'")
        if kind == "env":
            known = peer_gymnax.IDS if peer == "gymnax" else peers_multiagent.PEERS.get(peer, env_throughput.ORIGINALS)
            if world not in known:
                raise UsageError(f"{peer} has no {world}; {nearest(world, known)}")
        elif not train_throughput.known(peer, world):
            names = [*env_throughput.ORIGINALS, *peers_multiagent.PEERS["minatar"]]
            has = [name for name in names if train_throughput.known(peer, name)]
            raise UsageError(f"{peer} has no {world}; {nearest(world, has)}")
    if kind != "env" and len(world_registry.load(world).agents) > 1:
        raise UsageError(f"{world} has several agents: bench {kind} measures worlds of one, bench env all")
