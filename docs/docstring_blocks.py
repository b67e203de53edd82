"""Keeps the aligned tables of docstrings as they are typed: a Griffe extension that `mkdocs.yml` names.

Docstrings list shapes and dtypes in columns. Markdown would join these lines into one paragraph. Lines that are
indented, or that have columns two or more spaces apart, are therefore fenced as text, except in sections of Google's
style.
"""

import re
from typing import Any

import griffe

_SECTION = re.compile(r"(Args|Raises|Returns|Yields|Attributes|Example|Examples|Source): *$")
_COLUMNS = re.compile(r"\S {2,}\S")


class KeepBlocks(griffe.Extension):
    """Fences the aligned lines of every docstring before it is parsed."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a docstring with its aligned lines in fences of text."""
    lines, in_section, block, out = text.splitlines(), False, [], []

    def close() -> None:
        if block:
            out.extend(["", "```text", *block, "```", ""])
            block.clear()

    for line in lines:
        if not line.strip():
            in_section = False
        aligned = line.startswith("    ") or bool(_COLUMNS.search(line.strip()))
        if aligned and not in_section and line.strip():
            block.append(line)
            continue
        close()
        out.append(line)
        in_section = in_section or bool(_SECTION.match(line))
    close()
    return "\n".join(out)
