"""Agents: one file is one way to get an agent, found by its name."""

if __name__ == "agents":
    raise ImportError("import it as rl_lab.agents (another distribution owns the name `agents`); is rl_lab installed?")
