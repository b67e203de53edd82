"""Worlds: one file is one world, found by its name."""

if __name__ == "envs":
    raise ImportError("import it as rl_lab.envs (another distribution owns the name `envs`); is rl_lab installed?")
