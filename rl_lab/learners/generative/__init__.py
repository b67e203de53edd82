"""Policies that generate actions: a diffusion model of action sequences, and a transformer over an episode's tokens."""
