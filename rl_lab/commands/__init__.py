"""Commands: one file is one verb, with NAME, configure(parser) and run(arguments)."""
