"""This package has the backbones: each file is one network from observations to features, and has its name.

A file has a `Config`, a dataclass of hyperparameters, and `Backbone(space, config)`, a `torch.nn.Module`; see
`rl_lab.learners.pretraining.networks`.
"""
