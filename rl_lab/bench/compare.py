"""Run `rl-lab bench env`, `bench rollout` and `bench train`: the lab beside installed peers, on the same work.

`env` steps environments with random actions, `rollout` adds the policy's actions, and `train` includes updates. `bench`
makes a `Contender` for the lab and for each peer (`env_throughput`, `train_throughput`) and measures them in turns
(`timing.alternate`). No files are written; making contenders imports the peers and may start Ray.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Collection
from typing import Any

from rl_lab.bench import env_throughput, peer_gymnax, peers_multiagent, train_throughput
from rl_lab.bench.settings import MIN_NUM_ENVS_OF_WIDE, SETTINGS, Setting, setting_by_name
from rl_lab.bench.timing import alternate
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import world_registry

PEERS = {"env": tuple(env_throughput.PEERS), "rollout": train_throughput.PEERS, "train": train_throughput.PEERS}
_PEER_DEFAULT = SETTINGS["small"]  # the setting of peers where none is named, with sizes that are usual for them
_RLLIB = "rllib"  # the setting that the peer rllib needs, in which the lab's contender is rllib_ppo


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
    that is usual for them. `threads` is the number of torch's threads. Raises UsageError as `check_peers` does.
    """
    check_peers(kind, world, against)
    if not setting and "rllib" in against:
        setting = _RLLIB
    if kind == "env":
        is_multi_agent = len(world_registry.load(world).agents) > 1
        interface = peers_multiagent.lab_pettingzoo if is_multi_agent else env_throughput.lab_vector
        contenders = [env_throughput.engine(world, num_envs), interface(world, num_envs)]
        contenders += [env_throughput.PEERS[peer](world, num_envs) for peer in against]
        # Peers are compared with the lab through the same interface, which is contender 1.
        return alternate(contenders, 1, rounds=rounds, seconds=seconds)
    lab_setting, peer_setting = settings_for(setting, num_envs)
    for peer in against:
        if (peer == "rllib") != (lab_setting.agent == "rllib_ppo"):
            raise UsageError(
                f"{peer} is not measured with setting {setting or 'small'}: rllib is, with setting rllib alone"
            )
    if kind == "rollout" and lab_setting.agent == "dqn":
        raise UsageError(f"bench rollout measures PPO's rollouts; setting {setting} is {lab_setting.agent}'s")
    contenders = [train_throughput.make_contender("lab", kind, world, lab_setting)]
    for peer in against:
        # "stock" is SB3's learner in the lab's environments, and has as many of them as the lab's learner.
        setting_of_peer = lab_setting if peer == "stock" else peer_setting
        contenders.append(train_throughput.make_contender(peer, kind, world, setting_of_peer, threads=threads))
    if setting:
        contenders = [dataclasses.replace(each, extra_entries={"setting": setting}) for each in contenders]
    return alternate(contenders, 0, rounds=rounds, seconds=seconds)


def settings_for(setting: str, num_envs: int) -> tuple[Setting, Setting]:
    """Return the settings of the lab and of the peers, which are the same where a setting is named."""
    if setting:
        return setting_by_name(setting), setting_by_name(setting)
    # With many environments, a learner needs large minibatches. With few, the lab has the setting of the peers.
    lab_setting = SETTINGS["wide" if num_envs >= MIN_NUM_ENVS_OF_WIDE else "small"]
    return dataclasses.replace(lab_setting, num_envs=num_envs), _PEER_DEFAULT


def check_peers(kind: str, world: str, against: Collection[str]) -> None:
    """Raise UsageError for a peer that is unknown, is not installed or does not have this world."""
    for peer in against:
        if peer not in PEERS[kind]:
            raise UsageError(f"bench {kind} has no peer {peer!r}; {nearest(peer, PEERS[kind])}")
        if importlib.util.find_spec(train_throughput.MODULES.get(peer, peer)) is None:
            extra = {"sbx": "sbx", "gymnax": "gymnax", "rllib": "rllib"}.get(peer, "bench")
            raise UsageError(f"{peer} is not installed: pip install 'rl-lab[{extra}]'")
        if kind == "env":
            worlds = peer_gymnax.IDS if peer == "gymnax" else peers_multiagent.PEERS.get(peer, env_throughput.ORIGINALS)
            if world not in worlds:
                raise UsageError(f"{peer} has no {world}; {nearest(world, worlds)}")
        elif not train_throughput.has_world(peer, world):
            names = [*env_throughput.ORIGINALS, *peers_multiagent.PEERS["minatar"]]
            worlds_of_peer = [name for name in names if train_throughput.has_world(peer, name)]
            raise UsageError(f"{peer} has no {world}; {nearest(world, worlds_of_peer)}")
    if kind != "env" and len(world_registry.load(world).agents) > 1:
        raise UsageError(f"{world} has several agents: bench {kind} measures worlds of one, bench env all")
