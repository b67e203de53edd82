"""Agents that RLlib trains. Nothing here is imported before such an agent is asked for: Ray is an extra."""
