"""Scenarios: one YAML file is one recipe."""
