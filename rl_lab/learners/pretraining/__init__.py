"""This package has backbones: networks that are trained before, and handed to, reinforcement learning."""
