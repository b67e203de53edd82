"""Scenarios, training runs and their folders."""
