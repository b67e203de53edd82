"""This package has the agents: each file is one way to make an agent, and its name is the agent's.

A file has a `Config`, a dataclass of hyperparameters with the keys of the command line (`agent.KEY=VALUE`). A file with
`make(config, world)` returns an agent that needs no training. A file with `learner(...)` and `load(...)` returns a
learner of new networks, and a trained agent from its saved parameters. `rl_lab.core.agent_registry` finds the files.
"""

if __name__ == "agents":
    raise ImportError("import it as rl_lab.agents (another distribution owns the name `agents`); is rl_lab installed?")
