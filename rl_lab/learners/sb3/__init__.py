"""Stable-Baselines3's algorithms with the compiled learners inside."""
