"""Lets the docstrings, which are written for readers of the code, read well in the reference too: a griffe extension for mkdocstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):`~?([\w.]+)`")
_LITERAL_BLOCK = re.compile(r"^\s*::\n|(?<=\S)::$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turns the marks of reStructuredText that the docstrings use into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = _ROLE.sub(_last_part, obj.docstring.value)
            obj.docstring.value = _LITERAL_BLOCK.sub(lambda mark: "" if mark[0].endswith("\n") else ":", text)


def _last_part(role: re.Match[str]) -> str:
    """What a role shows: ``:class:`~a.b.C``` is ``C``."""
    name = role[1].rpartition(".")[2] if "~" in role[0] else role[1]
    return f"`{name}`"
