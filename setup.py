"""The packages that pip installs: setuptools finds those in rl_lab/ and those that lie beside it.

The rest of the build is described in pyproject.toml, which cannot search folders that are installed under another name.
"""

from setuptools import find_packages, setup

BESIDE = ("envs", "agents", "scenarios")  # installed as rl_lab.envs, rl_lab.agents and rl_lab.scenarios

packages = find_packages(include=["rl_lab", "rl_lab.*"])
packages += [f"rl_lab.{name}" for folder in BESIDE for name in find_packages(include=[folder, f"{folder}.*"])]
setup(packages=packages, package_dir={f"rl_lab.{folder}": folder for folder in BESIDE})
