"""The process that compiles PPO's update while its parent compiles a world; `precompile` starts it.

It trains an untrained agent of SB3's CartPole on an empty rollout, because that compiles the update for all agents. It
prints the name of each of PARTS once it is compiled, and ends with its parent.
"""

from __future__ import annotations

from rl_lab.core.parent_process import end_with_parent
from rl_lab.learners.sb3.ppo import CompiledPPO
from rl_lab.learners.sb3.precompile import PARTS


def main() -> None:
    """Compile the functions of an update by updating an untrained agent with an empty rollout."""
    from stable_baselines3.common.logger import Logger

    end_with_parent()
    CompiledPPO.compiles_in_background = False
    model = CompiledPPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu")
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.prepare_compiled()
    model.network_tables()
    print(PARTS[0], flush=True)
    model.train()
    print(PARTS[1], flush=True)


if __name__ == "__main__":
    main()
