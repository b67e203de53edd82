"""The commands of `rl-lab`: one file is one command, which `rl_lab.cli` finds by the file's name.

A file has NAME, the command as it is typed; `configure(parser)`, which adds its arguments; and `run(arguments)`, which
does the work and returns the exit status. Its docstring is the text of `--help`. Most imports are inside functions, so
that `rl-lab --help` does not load torch.
"""
