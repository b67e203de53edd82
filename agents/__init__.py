"""This package has the agents: each file is one way to make an agent, and its name is the agent's."""

if __name__ == "agents":
    raise ImportError("import it as rl_lab.agents (another distribution owns the name `agents`); is rl_lab installed?")
