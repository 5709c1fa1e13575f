r"""Redis' glob patterns, for the memory tier: ``*``, ``?``, ``[abc]``, ``[^a]``, ``[a-z]`` and ``\`` to escape.

The rules are those of Redis' ``stringmatchlen`` (util.c), which matches bytes, not characters.  One thing is left open
there: whether a byte above 127 at the end of a range, as in ``[a-é]``, is negative depends on the machine.  Here it is not.

No pattern takes longer than its length times the key's.  Between two stars stands a text of fixed length, so the first
place where it fits is as good as any later one, and is never given up again: that is what the atomic groups say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

__all__ = ["MATCH_ALL", "escape", "matcher"]

MATCH_ALL = "*"


def escape(text: str) -> str:
    """A pattern that matches just this text."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


@lru_cache(maxsize=256)
def matcher(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a key matches, by the rules of Redis."""
    if pattern == MATCH_ALL:
        return lambda key: True
    match = re.compile(_to_regex(pattern.encode("utf-8", "surrogatepass")), re.DOTALL).fullmatch
    return lambda key: match(key.encode()) is not None


def _to_regex(pattern: bytes) -> bytes:
    parts = [b""]  # what stands between the stars
    i = 0
    while i < len(pattern):
        char = pattern[i : i + 1]
        i += 1
        if char == b"*":
            parts.append(b"")
        elif char == b"?":
            parts[-1] += b"."
        elif char == b"[":
            expression, i = _class_to_regex(pattern, i)
            parts[-1] += expression
        elif char == b"\\" and i < len(pattern):
            parts[-1] += re.escape(pattern[i : i + 1])
            i += 1
        else:
            parts[-1] += re.escape(char)
    if len(parts) == 1:
        return parts[0]
    first, *middle, last = parts
    return first + b"".join(b"(?>.*?%b)" % part for part in middle if part) + b".*" + last


def _class_to_regex(pattern: bytes, i: int) -> tuple[bytes, int]:
    """The class that opens before ``i``, and where the pattern goes on.  A class that never closes ends with the pattern."""
    negated = pattern[i : i + 1] == b"^"
    i += negated
    members: set[int] = set()
    while i < len(pattern) and pattern[i : i + 1] != b"]":
        if pattern[i : i + 1] == b"\\" and i + 1 < len(pattern):
            members.add(pattern[i + 1])
            i += 2
        elif pattern[i + 1 : i + 2] == b"-" and i + 2 < len(pattern):
            low, high = sorted((pattern[i], pattern[i + 2]))
            members.update(range(low, high + 1))
            i += 3
        else:
            members.add(pattern[i])
            i += 1
    if not members:
        return (b"." if negated else b"(?!)"), i + 1
    body = b"".join(b"\\x%02x" % member for member in sorted(members))
    return b"[" + (b"^" if negated else b"") + body + b"]", i + 1
