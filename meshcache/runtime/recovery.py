"""The way back to Redis: probe, replay what the outage wrote, hand over.  Also the replay of single writes in doubt.

It reads the mode and sends signals; what a signal changes is decided in ``modes``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio

from ..errors import RedisCommandError, Unavailable
from ..events import Mode
from ..journal import Journal
from ..memory import MemoryTier
from ..modes import ModeMachine
from ..options import OnRecovery
from ..redis.count import bring_shares
from ..redis.fence import apply, publish_sweeps, read_sweeps, sweep, write
from ..redis.link import ClientId, Link, Server, pipelines
from ..redis.names import Names, client_name
from ..redis.probe import end_connections, end_connections_of, probe
from ..shares import is_share
from ..stamp import Kind, Op, Stamp, of_nobody
from ..standings import Gone

__all__ = ["Recovery", "Signals"]

_BATCH = 128
"""Writes in one round trip; the event loop is held for each of them for some 20 µs."""

_LEFTOVER = 500
_SMALLEST_BATCH = 8
_RETRY = 0.02
_HEARINGS = 10
_HEARING_PAUSE = 0.02


class Signals(Protocol):
    """What recovery tells the runtime."""

    async def registered(self, *, replays: bool) -> None:
        """Tell Redis how this instance stands, and whether it replays until ``drained``; and learn it of the others.
        May raise :class:`Unavailable`."""
        ...

    def may_set(self, ops: list[Op]) -> list[Op]:
        """Those of these writes that may not be brought to Redis as they were, as invalidations."""
        ...

    def is_undecided(self) -> bool:
        """Whether that would be all of them, since somebody may be writing plainly now."""
        ...

    async def probed(self, server: Server) -> None:
        """A probe wrote to Redis.  May raise :class:`Unavailable`."""
        ...

    def overtaken_since(self, since: float) -> list[Op]:
        """Of what this instance changed since that moment, what a plain write of an instance that is gone may have replaced."""
        ...

    def drained(self) -> None:
        """Redis may answer: no dirty key is left, or a few that were just written."""
        ...

    def lost(self, outage: Unavailable) -> None:
        """Redis cannot serve."""
        ...


class Recovery:
    """Brings one instance back to Redis.

    Args:
        link: connections of its own, so that a replay never stands in the way of callers.
        names: the Redis keys.
        memory: what the outage wrote.
        journal: which keys those are; the one of ``memory``.
        modes: is asked, never changed.
        signals: told what happened.
        on_recovery: what to do with the journal.
        fence_ttl: how long a fence is kept, in seconds.
        now: the monotonic clock, in seconds.
        random: uniform in [0, 1), for jitter.
        abandoned: the connections that were given up; emptied here.
        wrote: told of each write that is in Redis.
        laid: told of the keys of which no plain write that was given up may arrive any more, or has been undone.

    Attributes:
        tried: set once the first attempt of all is over, whatever came of it.
        replayed: writes that Redis took.
        refused: writes that Redis knew already, or knew something newer of.
    """

    def __init__(
        self,
        *,
        link: Link,
        names: Names,
        memory: MemoryTier,
        journal: Journal,
        modes: ModeMachine,
        signals: Signals,
        on_recovery: OnRecovery,
        fence_ttl: float,
        now: Callable[[], float],
        random: Callable[[], float],
        abandoned: list[ClientId],
        wrote: Callable[[Op], None],
        laid: Callable[[list[str]], None],
    ) -> None:
        self.tried = anyio.Event()
        self.replayed = 0
        self.refused = 0
        self._link = link
        self._names = names
        self._memory = memory
        self._journal = journal
        self._modes = modes
        self._signals = signals
        self._on_recovery = on_recovery
        self._fence_ttl_ms = int(fence_ttl * 1000)
        self._now = now
        self._random = random
        self._abandoned = abandoned
        self._wrote = wrote
        self._laid = laid
        self._gone: list[Gone] = []
        self._batch = _BATCH
        self._woken = anyio.Event()

    def wake(self) -> None:
        """The mode changed, a key became dirty, or a peer found Redis: look at once."""
        self._woken.set()

    def missed(self, gone: list[Gone]) -> None:
        """These instances are gone: only others can undo now what they have given up."""
        self._gone += gone
        if gone:
            self.wake()

    async def run(self) -> None:
        """Until cancelled."""
        await self._attempt()
        self.tried.set()
        while True:
            if self._modes.mode is Mode.REDIS and not self._has_work and not self._gone:
                await self._pause(None)
            elif self._modes.mode is Mode.MEMORY:
                pause = self._modes.probe_pause(self._now(), self._random())
                if await self._pause(pause) and self._modes.held_down(self._now()):
                    continue
                await self._attempt()
            else:
                await self._attempt()
                if self._has_work or self._gone:
                    await self._pause(_RETRY)

    async def _attempt(self) -> None:
        """One probe if Redis is away, then the replay.  What fails is reported as a signal, not raised."""
        try:
            if self._modes.mode is Mode.MEMORY:
                await self._signals.probed(await probe(self._link, self._names))
            await self._end_the_gone()
            if self._has_work or self._modes.mode is not Mode.REDIS:
                await self._drain()
        except Unavailable as outage:
            if outage.timed_out:  # too much at once for this way to Redis, perhaps: never try the very same for ever
                self._batch = max(self._batch // 4, _SMALLEST_BATCH)
            self._signals.lost(outage)
        except RedisCommandError as error:
            # Redis answers, but forbids what recovery needs: the outage goes on, with the reason in the log.
            self._signals.lost(Unavailable(f"Redis refuses what recovery needs: {error}"))

    @property
    def _has_work(self) -> bool:
        """Whether anything is to be brought to Redis, or undone there."""
        return bool(self._journal or self._journal.ghosts)

    async def _end_the_gone(self) -> None:
        """What instances that are gone have sent may be under way for long.  It must arrive no more; what did arrive is undone by
        whoever changed the same keys after it: they are deleted, but for counters, which others may have counted since."""
        gone, now = list(self._gone), self._now()
        if not gone:
            return
        await end_connections_of(self._link, {client_name(one.node_id): now - one.until for one in gone})
        ops = []
        for op in self._signals.overtaken_since(min(one.since for one in gone)):
            if op.kind is Kind.SWEEP:
                self._journal.mark_sweep(op.key, op.stamp, foreign=True)
            else:
                ops.append(Op(Kind.INVALIDATE, op.key, of_nobody(op.stamp)))
        outcomes = await write(self._link, self._names, ops, now, self._fence_ttl_ms, "AGAIN")
        # None: a counter, which stays; nothing is to be done there once more, either, if Redis forgets its last seconds.
        self._laid([op.key for op, outcome in zip(ops, outcomes, strict=True) if outcome is not None])
        del self._gone[: len(gone)]

    async def _end_abandoned(self) -> None:
        """What was sent on connections that were given up must not arrive after what is about to be written: end them."""
        abandoned = list(self._abandoned)
        await end_connections(self._link, abandoned)
        del self._abandoned[: len(abandoned)]  # only now: without an answer they are still to be ended

    async def _lay_ghosts(self, keys: list[str], *, invalidate: bool) -> None:
        """A plain write that was given up may have arrived by now, after what somebody has written since: what this instance knows
        of the key is written once more; and if somebody knows something newer, it is deleted, which is always safe."""
        ops = self._safe(self._memory.newest(keys), invalidate=invalidate)
        outcomes = await write(self._link, self._names, ops, self._now(), self._fence_ttl_ms, "AGAIN")
        written = {op.key for op, outcome in zip(ops, outcomes, strict=True) if not isinstance(outcome, Exception)}
        for some in pipelines(("UNLINK", self._names.key(key)) for key in keys if key not in written):
            await self._link.execute_many(some)
        self._journal.ghosts.difference_update(keys)
        self._laid(keys)

    def _safe(self, ops: list[Op], *, invalidate: bool) -> list[Op]:
        """As these writes may be brought to Redis."""
        return [_forgotten(op) for op in ops] if invalidate else self._signals.may_set(ops)

    async def _drain(self) -> None:
        """Replay until nothing is dirty, or until the rest was written during the last pass: waiting for none would never
        end where writes go on.  In ``Mode.REDIS`` what is dirty is not read from Redis, and its replay goes on."""
        recovering = self._modes.mode is not Mode.REDIS
        if recovering and self._on_recovery == "discard":
            self._journal.clear()
        known: dict[str, Stamp] = {}
        # Those of now, before their connections are ended; in an order that a simulation can repeat.
        ghosts = sorted(self._journal.ghosts)
        if self._journal or ghosts:
            await self._end_abandoned()
            await self._hear_the_others()
            known |= await read_sweeps(self._link, self._names)
            self._memory.learn_sweeps(known)  # first: what is laid below may be older
            await self._lay_ghosts(ghosts, invalidate=recovering and self._on_recovery == "invalidate")
        while self._journal and not self._journal.ghosts:
            known |= await self._replay_sweeps()
            await self._replay_keys(invalidate=recovering and self._on_recovery == "invalidate")
            await self._repeat_sweeps(known)
            if self._modes.mode is Mode.MEMORY:
                return  # callers have lost Redis meanwhile: a probe comes first
            if recovering and not self._journal.sweeps and len(self._journal) <= _LEFTOVER:
                break
        if self._journal.ghosts:
            return  # callers have given up on Redis meanwhile: what they sent is ended before their keys are replayed
        if recovering:
            await self._signals.registered(replays=False)
        self._signals.drained()

    async def _hear_the_others(self) -> None:
        """Whoever writes plainly stops when it hears that this instance is not clean, a moment from now: wait for that."""
        await self._signals.registered(replays=True)
        for _ in range(_HEARINGS):
            if not self._signals.is_undecided():
                break
            await anyio.sleep(_HEARING_PAUSE)
        else:
            await self._signals.registered(replays=True)
        await self._end_the_gone()  # first: what is replayed needs no undoing then

    async def _replay_sweeps(self) -> dict[str, Stamp]:
        """Delete in Redis what the outage deleted by pattern; told to the other instances first, which may hold older keys."""
        sweeps = dict(self._journal.sweeps)
        if sweeps:
            await publish_sweeps(self._link, self._names, sweeps, self._fence_ttl_ms)
        for pattern, stamp in sweeps.items():
            await sweep(self._link, self._names, pattern, stamp, self._fence_ttl_ms)
            self._memory.learn_sweeps({pattern: stamp})  # of a journal that overflowed only the journal knew
            self._journal.sweep_done(pattern, stamp)
            self._wrote(Op(Kind.SWEEP, pattern, stamp))
        return sweeps

    async def _repeat_sweeps(self, known: dict[str, Stamp]) -> None:
        """A sweep that another instance told in Redis since we looked may have passed before our keys were there: do it again."""
        fresh = {
            pattern: stamp
            for pattern, stamp in (await read_sweeps(self._link, self._names)).items()
            if known.get(pattern) != stamp
        }
        known |= fresh
        self._memory.apply(Op(Kind.SWEEP, pattern, stamp) for pattern, stamp in fresh.items())
        for pattern, stamp in fresh.items():  # also what the store had heard of already
            self._journal.mark_sweep(pattern, stamp, foreign=True)

    async def _replay_keys(self, *, invalidate: bool) -> None:
        """One pass over the keys that are dirty now."""
        left = len(self._journal)
        while left > 0 and (ops := self._memory.dirty(min(left, self._batch))):
            left -= len(ops)
            shares = [op for op in ops if is_share(op.key)]
            writes = [op for op in ops if not is_share(op.key)]
            writes = self._safe(writes, invalidate=invalidate)
            applied = await self._apply(writes) + await self._count(shares)
            self._memory.cleaned(ops)
            for op in (*writes, *shares):
                self._wrote(op)
            self._batch = min(self._batch * 2, _BATCH)
            self.replayed += sum(applied)
            self.refused += len(applied) - sum(applied)

    async def _apply(self, ops: list[Op]) -> list[bool]:
        """Bring writes to Redis.  A key that this user may not touch at all is left out: it must not keep all others away."""
        try:
            return await apply(self._link, self._names, ops, self._now(), self._fence_ttl_ms)
        except RedisCommandError as error:
            if not _concerns_a_key(error):
                raise
            if len(ops) == 1:
                return [False]
        half = len(ops) // 2
        return [*await self._apply(ops[:half]), *await self._apply(ops[half:])]

    async def _count(self, shares: list[Op]) -> list[bool]:
        """Bring shares of counters to Redis, which adds what it does not have yet."""
        added = await bring_shares(self._link, self._names, shares, self._now(), self._fence_ttl_ms)
        self._memory.counted_in_redis(op for op, is_added in zip(shares, added, strict=True) if is_added)
        return added

    async def _pause(self, seconds: float | None) -> bool:
        """Wait to be woken, ``seconds`` at most (None: for ever); whether that happened."""
        with anyio.move_on_after(seconds):
            await self._woken.wait()
        woken = self._woken.is_set()
        self._woken = anyio.Event()
        return woken


def _forgotten(op: Op) -> Op:
    return Op(Kind.INVALIDATE, op.key, op.stamp)


def _concerns_a_key(error: RedisCommandError) -> bool:
    """Whether Redis forbids a key, and not a command: ``NOPERM No permissions to access a key``."""
    text = str(error)
    return text.startswith("NOPERM") and "key" in text and "command" not in text
