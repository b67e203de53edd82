"""Scenarios: one YAML file is one scenario."""
