"""Where in a cluster a command belongs: by the slots of its keys; and how one over keys of several slots is cut and put together.

Only of the commands that meshcache sends.  redis-py's ``CommandsParser`` knows all, but has to ask a server first, and in
another way on asyncio than elsewhere.  What may not enter: nodes, I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..errors import RedisCommandError
from .link import Argument, Command
from .names import key_slot

__all__ = ["Call", "Part"]

_EVERYWHERE: Final = frozenset({"PING", "INFO", "TIME", "SCRIPT", "CONFIG", "CLIENT"})
"""Commands without a key: they go to every master."""

_OVER_KEYS: Final = frozenset({"MGET", "UNLINK", "EXISTS", "DEL"})
"""Commands of which every argument is a key, and which may be cut: their replies are a value for each key, or a number."""

_SCRIPT_CALLS: Final = frozenset({"EVALSHA", "EVAL"})


class Part:
    """What one node is asked for one command.

    Attributes:
        command: what is sent.
        slot: the slot of its keys; None if it goes to every master.
        reply: what came back; meaningless until it is ``answered``.
        answered: whether there is a reply.
    """

    __slots__ = ("answered", "command", "reply", "slot")

    def __init__(self, command: Command, slot: int | None) -> None:
        self.command = command
        self.slot = slot
        self.reply: Any = None
        self.answered = False

    @property
    def divisible(self) -> bool:
        """Whether it is over several keys, which may be asked for one by one."""
        return self.command[0] in _OVER_KEYS and len(self.command) > 2

    def answer(self, reply: Any) -> None:
        """There is a reply; of several, from several masters, the first counts, but rather one that is a refusal."""
        if not self.answered or (
            isinstance(reply, RedisCommandError) and not isinstance(self.reply, RedisCommandError)
        ):
            self.reply = reply
        self.answered = True


class Call:
    """One command of the caller, and the parts that it was cut into.

    Attributes:
        parts: one, if all keys are in one slot.
    """

    __slots__ = ("_command", "_places", "parts")

    def __init__(self, command: Command) -> None:
        name = command[0]
        first_key = 3 if name in _SCRIPT_CALLS else 1
        self._command = command
        self._places: list[list[int]] = []
        if name in _EVERYWHERE or len(command) <= first_key:
            self.parts = [Part(command, None)]
        elif name in _OVER_KEYS and len(command) > 2:
            self.parts = self._cut(command)
        else:
            self.parts = [Part(command, _slot(command[first_key]))]

    def _cut(self, command: Command) -> list[Part]:
        by_slot: dict[int, list[int]] = {}
        for place in range(1, len(command)):
            by_slot.setdefault(_slot(command[place]), []).append(place)
        self._places = list(by_slot.values())
        return [Part((command[0], *(command[place] for place in places)), slot) for slot, places in by_slot.items()]

    def cut_finer(self, part: Part) -> None:
        """One part a key, instead of this one: its keys are under way between two nodes."""
        number = self.parts.index(part)
        places = self._places[number] if self._places else list(range(1, len(self._command)))
        self.parts[number : number + 1] = [
            Part((self._command[0], self._command[place]), part.slot) for place in places
        ]
        self._places[number : number + 1] = [[place] for place in places]

    def reply(self) -> Any:
        """What the caller gets, once all parts are answered; of several refusals the first."""
        replies = [part.reply for part in self.parts]
        if len(replies) == 1:
            return replies[0]
        for reply in replies:
            if isinstance(reply, RedisCommandError):
                return reply
        return self._values(replies) if self._command[0] == "MGET" else sum(replies)

    def _values(self, replies: Sequence[list[bytes | None]]) -> list[bytes | None]:
        values: list[bytes | None] = [None] * (len(self._command) - 1)
        for places, some in zip(self._places, replies, strict=True):
            for place, value in zip(places, some, strict=True):
                values[place - 1] = value
        return values


def _slot(key: Argument) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode())
