"""Checks of worlds and environments, and of this machine."""
