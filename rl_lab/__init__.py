"""rl_lab: worlds written as scalar Python, stepped at compiled speed, trained, measured and filmed."""
