"""Hands over to the package inside.

Python looks for `import rl_lab` beside a script first. In the folder above a clone of this name it finds the clone, and
would take it for an empty package.
"""

if __name__ == "rl_lab":
    import sys
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    here = Path(__file__).parent
    folders = [str(here / "rl_lab"), str(here)]  # the second has envs, agents and scenarios
    spec = spec_from_file_location(__name__, here / "rl_lab" / "__init__.py", submodule_search_locations=folders)
    sys.modules[__name__] = package = module_from_spec(spec)
    spec.loader.exec_module(package)
