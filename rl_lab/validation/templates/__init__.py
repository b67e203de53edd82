"""The Connect Four solver, compiled."""
