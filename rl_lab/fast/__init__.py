"""Learning at the speed of the worlds: small networks, PPO and DQN in compiled code. numpy and numba only."""
