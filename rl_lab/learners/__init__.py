"""PPO and DQN: compiled, and Stable-Baselines3's own."""
