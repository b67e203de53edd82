"""Learning at the speed of the environments: small networks, PPO and DQN in compiled code. numpy and numba only."""
