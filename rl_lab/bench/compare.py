"""`rl-lab bench env`, `rollout` and `train`: the lab and installed peers on the same work, in alternation.

Three kinds, never mixed: `env` steps worlds with random actions, `rollout` adds the policy's choice of actions,
`train` is end to end.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Collection
from typing import Any

from .. import worlds as by_name
from ..names import UsageError, nearest
from . import games, jitted, learning, stepping
from .rounds import alternate
from .settings import MANY, SETTINGS, Setting, named

PEERS = {"env": tuple(stepping.PEERS), "rollout": learning.PEERS, "train": learning.PEERS}
_LEARNS_ALONE = SETTINGS["small"]  # what a peer is given where no setting is named: its users' usual sizes


def bench(
    kind: str,
    world: str,
    *,
    worlds: int = 1024,
    setting: str = "",
    against: tuple[str, ...] = (),
    rounds: int = 5,
    seconds: float = 1.0,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Return a row a contender, the lab first; see `rounds` for its entries. Raises UsageError for peers that cannot.

    Learners are all given the setting; without one, the lab has so many worlds, and peers what suits them. `threads`
    are torch's.
    """
    check(kind, world, against)
    if kind == "env":
        several = len(by_name.load(world).agents) > 1
        face = games.face if several else stepping.lab_vector
        contenders = [stepping.engine(world, worlds), face(world, worlds)]
        contenders += [stepping.PEERS[peer](world, worlds) for peer in against]
        # Peers compare with the lab through the same interface, which is the last of the lab's own contenders.
        return alternate(contenders, 1, rounds=rounds, seconds=seconds)
    own, theirs = sizes(setting, worlds)
    if kind == "rollout" and own.agent != "ppo":
        raise UsageError(f"bench rollout measures PPO's rollouts; setting {setting} is {own.agent}'s")
    contenders = [learning.contender("lab", kind, world, own)]
    contenders += [
        learning.contender(p, kind, world, own if p == "stock" else theirs, threads=threads) for p in against
    ]
    if setting:
        contenders = [dataclasses.replace(c, more={"setting": setting}) for c in contenders]
    return alternate(contenders, 0, rounds=rounds, seconds=seconds)


def sizes(setting: str, worlds: int) -> tuple[Setting, Setting]:
    """Return the lab's setting and the peers': one and the same where it is named."""
    if setting:
        return named(setting), named(setting)
    # Big batches keep a learner busy where there are many worlds; few worlds take the peers' setting.
    own = SETTINGS["wide" if worlds >= MANY else "small"]
    return dataclasses.replace(own, worlds=worlds), _LEARNS_ALONE


def check(kind: str, world: str, against: Collection[str]) -> None:
    """Raise UsageError for a peer that is unknown, not installed or without this world."""
    for peer in against:
        if peer not in PEERS[kind]:
            raise UsageError(f"bench {kind} has no peer {peer!r}; {nearest(peer, PEERS[kind])}")
        if importlib.util.find_spec(learning.MODULES.get(peer, peer)) is None:
            extra = {"sbx": "sbx", "gymnax": "gymnax"}.get(peer, "bench")
            raise UsageError(f"{peer} is not installed: pip install 'rl-lab[{extra}]'")
        if kind == "env":
            known = jitted.IDS if peer == "gymnax" else games.PEERS.get(peer, stepping.ORIGINALS)
            if world not in known:
                raise UsageError(f"{peer} has no {world}; {nearest(world, known)}")
        elif not learning.known(peer, world):
            raise UsageError(f"{peer} has no {world}; {nearest(world, [*stepping.ORIGINALS, *games.PEERS['minatar']])}")
    if kind != "env" and len(by_name.load(world).agents) > 1:
        raise UsageError(f"{world} has several agents: bench {kind} measures worlds of one, bench env all")
