"""What one peer sends: which of its numbered datagrams came, which are missing, and values that come in pieces.

No I/O, no clock.  Source of the way to repair: NACK-oriented reliable multicast, RFC 5740, with a constant pause instead of
a growing one, since a repair that is lost would double the wait each time.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from ..stamp import Kind, Op, Stamp
from .settings import Limits
from .wire import FRAGMENT_BYTES, MAX_NACK_RANGES, Fragment, Nack, Ops

__all__ = ["Assembly", "Inbox"]


class Inbox:
    """The numbers of one peer's datagrams.

    Args:
        last: the newest number that this peer had sent when it was met; what came before is not missed.
        limits: how many missing numbers are remembered.

    Attributes:
        lost: how many numbers will never come: their sender cannot repeat them, or there were too many.
    """

    __slots__ = ("_expected", "_limits", "_missing", "lost")

    def __init__(self, last: int, limits: Limits) -> None:
        self.lost = 0
        self._limits = limits
        self._expected = last + 1
        self._missing: dict[int, float] = {}  # ascending; each with the moment at which to ask for it

    def __len__(self) -> int:
        """How many numbers are missing."""
        return len(self._missing)

    def leaves_gap(self, number: int) -> bool:
        """Whether others should have come before this number, and are not missed yet."""
        return number > self._expected

    def arrived(self, number: int, ask_at: float) -> bool:
        """Note a number; whether it is new.  What is missing before it is to be asked for at ``ask_at``."""
        if number == self._expected:
            self._expected += 1
            return True
        if number > self._expected:
            self.announced(number - 1, ask_at)
            self._expected += 1
            return True
        if number in self._missing:
            del self._missing[number]
            return True
        return False

    def announced(self, last: int, ask_at: float) -> None:
        """The peer has sent everything up to ``last``; what of it did not come is to be asked for at ``ask_at``."""
        first = max(self._expected, last + 1 - self._limits.max_missing)
        self.lost += max(0, first - self._expected)
        self._missing.update(dict.fromkeys(range(first, last + 1), ask_at))
        self._expected = max(self._expected, last + 1)
        while len(self._missing) > self._limits.max_missing:
            del self._missing[next(iter(self._missing))]
            self.lost += 1

    def unrepeatable(self, first: int, last: int) -> None:
        """The peer cannot repeat these."""
        if not self._missing or last < next(iter(self._missing)):
            return
        gone = [number for number in self._missing if first <= number <= last]
        for number in gone:
            del self._missing[number]
        self.lost += len(gone)

    def nack(self, now: float, ask_again_at: float) -> Nack | None:
        """Ask for what is due, the oldest first, and again at ``ask_again_at``; None if nothing is due."""
        ranges: list[tuple[int, int]] = []
        for number, ask_at in self._missing.items():
            if ask_at > now:
                continue
            if ranges and number == ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], number)
            elif len(ranges) == MAX_NACK_RANGES:
                break
            else:
                ranges.append((number, number))
            self._missing[number] = ask_again_at
        return Nack(tuple(ranges)) if ranges else None

    @property
    def ask_at(self) -> float:
        """When the next number is to be asked for; ``inf`` if none is missing."""
        return min(self._missing.values(), default=inf)


class _Puzzle:
    __slots__ = ("expires_at", "in_redis", "key", "pieces", "size", "total", "touched_at")

    def __init__(self, total: int) -> None:
        self.total = total
        self.pieces: dict[int, bytes] = {}
        self.size = 0
        self.key = ""
        self.expires_at = inf
        self.in_redis: bool | None = None
        self.touched_at = 0.0


class Assembly:
    """Values that come in pieces, from all peers, by their stamps.

    Attributes:
        bytes: what the pieces kept count for.
    """

    __slots__ = ("_limits", "_puzzles", "bytes")

    def __init__(self, limits: Limits) -> None:
        self.bytes = 0
        self._limits = limits
        self._puzzles: OrderedDict[Stamp, _Puzzle] = OrderedDict()  # the one that waits longest for a piece first

    def add(self, fragment: Fragment, now: float) -> tuple[Ops | None, bool]:
        """Take in a piece that came at ``now``.

        Returns:
            The write as one datagram would have brought it, if it is whole now, or an invalidation if it is too large for
            this instance; and whether the pieces of another value had to be given up, which its numbers do not tell any more.
        """
        _, stamp, place, total, piece, key, expires_at, in_redis = fragment
        if (total - 2) * FRAGMENT_BYTES > self._limits.max_value_bytes:
            return (None if place else Ops(0, (Op(Kind.INVALIDATE, key, stamp),), in_redis)), False
        puzzle = self._puzzles.get(stamp)
        if puzzle is None or puzzle.total != total:
            self.drop(stamp)
            puzzle = self._puzzles[stamp] = _Puzzle(total)
        self._puzzles.move_to_end(stamp)
        puzzle.touched_at = now
        if place not in puzzle.pieces:
            puzzle.pieces[place] = piece
            puzzle.size += len(piece)
            self.bytes += len(piece)
        if place == 0:
            puzzle.key, puzzle.expires_at, puzzle.in_redis = key, expires_at, in_redis
        if len(puzzle.pieces) == total:
            self.drop(stamp)
            value = b"".join([puzzle.pieces[place] for place in range(total)])
            return Ops(0, (Op(Kind.SET, puzzle.key, stamp, value, puzzle.expires_at),), puzzle.in_redis), False
        return None, self._make_room()

    def drop(self, stamp: Stamp) -> None:
        """Give up what came of this value."""
        puzzle = self._puzzles.pop(stamp, None)
        if puzzle is not None:
            self.bytes -= puzzle.size

    def drop_older(self, than: float) -> None:
        """Give up what got no piece since then: its sender has left, or it was whole before and this is a late echo."""
        while self._puzzles and next(iter(self._puzzles.values())).touched_at < than:
            self.drop(next(iter(self._puzzles)))

    def _make_room(self) -> bool:
        given_up = False
        while self.bytes > self._limits.assembly_bytes:
            self.drop(next(iter(self._puzzles)))
            given_up = True
        return given_up
