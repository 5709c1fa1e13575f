"""One load at a time: waiting, taking over, errors; with a shelf that a test can hold up."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable

import anyio
import pytest

from meshcache.loading import Loading
from meshcache.loads import Loads
from meshcache.stamp import Stamp, make_stamp

pytestmark = pytest.mark.anyio


class Gate:
    """Where somebody arrives and waits until a test lets him on."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.arrivals = 0
        self._arrived = anyio.Event()
        self._open = anyio.Event()
        if is_open:
            self.open()

    def open(self) -> None:
        self._open.set()

    async def arrived(self) -> None:
        with anyio.fail_after(5):
            await self._arrived.wait()

    async def __call__(self) -> None:
        self.arrivals += 1
        self._arrived.set()
        await self._open.wait()


class MemoryShelf:
    """Values in a dict."""

    def __init__(self, *, overtakes: bool = True) -> None:
        self.values: dict[str, bytes] = {}
        self.finding, self.storing = Gate(is_open=True), Gate(is_open=True)
        self.taken_back: list[str] = []
        self.broken: Exception | None = None
        self._overtakes = overtakes
        self._moments = 0

    async def find(self, key: str) -> bytes | None:
        value = self.values.get(key)  # as it was when the question arrived: the answer may be late
        await self.finding()
        return value

    def moment(self) -> Stamp:
        self._moments += 1
        return make_stamp(self._moments, 0, 1)

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool) -> bool:
        await self.storing()
        if self.broken is not None:
            raise self.broken
        self.values[key] = value
        return self._overtakes

    async def take_back(self, key: str) -> None:
        self.taken_back.append(key)
        self.values.pop(key, None)


class Source:
    """What is loaded: each load gives another value."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.calls = 0
        self.gate = gate or Gate(is_open=True)

    async def __call__(self) -> bytes:
        self.calls += 1
        value = b"load %d" % self.calls
        await self.gate()
        return value


class Room:
    """The loads of an instance, and what a test looks at."""

    def __init__(self) -> None:
        self.loads = Loads()
        self.shelf = MemoryShelf()
        self.loading = Loading(self.loads, self.shelf)
        self.got: list[bytes] = []
        self.raised: list[Exception] = []

    async def get(self, loader: Callable[[], Awaitable[bytes]]) -> None:
        try:
            self.got.append(await self.loading.get("key", loader, None))
        except Exception as error:
            self.raised.append(error)

    async def refresh(self, loader: Callable[[], Awaitable[bytes]]) -> None:
        self.got.append(await self.loading.refresh("key", loader, None))

    def delete(self, *, elsewhere: bool = False) -> None:
        self.loads.changed(("key",), elsewhere=elsewhere)
        self.shelf.values.pop("key", None)


@pytest.fixture
async def room() -> Room:
    return Room()


async def test_many_callers_make_one_load(room: Room) -> None:
    source = Source(Gate())
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(room.get, source)
        await anyio.wait_all_tasks_blocked()
        source.gate.open()
    assert room.got == [b"load 1"] * 20
    assert source.calls == 1
    assert room.shelf.values == {"key": b"load 1"}
    assert not room.loads


async def test_a_caller_whose_question_was_late_finds_the_value(room: Room) -> None:
    """It asked before the load ended, and heard after: no second load."""
    source = Source()
    await room.get(source)
    await room.get(source)
    assert room.got == [b"load 1"] * 2
    assert source.calls == 1


async def test_one_who_waits_may_go_away(room: Room) -> None:
    source = Source(Gate())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, source)
        await source.gate.arrived()
        with anyio.move_on_after(0.01):
            await room.loading.get("key", source, None)
        tasks.start_soon(room.get, source)
        await anyio.wait_all_tasks_blocked()
        source.gate.open()
    assert room.got == [b"load 1"] * 2
    assert source.calls == 1


async def test_another_takes_over_from_a_leader_that_went_away(room: Room) -> None:
    abandoned, source = Source(Gate()), Source()
    scope = anyio.CancelScope()

    async def leader() -> None:
        with scope:
            await room.get(abandoned)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader)
        await abandoned.gate.arrived()
        for _ in range(3):
            tasks.start_soon(room.get, source)
        await anyio.wait_all_tasks_blocked()
        assert source.calls == 0
        scope.cancel()
    assert (abandoned.calls, source.calls) == (1, 1)
    assert room.got == [b"load 1"] * 3
    assert room.shelf.values == {"key": b"load 1"}


async def test_the_last_one_cancelled_leaves_nothing(room: Room) -> None:
    source = Source(Gate())
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(room.get, source)
        await source.gate.arrived()
        tasks.cancel_scope.cancel()
    assert not room.loads
    assert room.shelf.values == {}
    await room.get(Source())
    assert room.got == [b"load 1"]


async def test_an_error_reaches_all_who_wait_and_nothing_is_stored(room: Room) -> None:
    gate = Gate()

    async def fails() -> bytes:
        await gate()
        raise LookupError("no such user")

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(room.get, fails)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert gate.arrivals == 1
    assert [str(error) for error in room.raised] == ["no such user"] * 50
    assert len(traceback.extract_tb(room.raised[-1].__traceback__)) < 20  # not one piece for each who raised it
    assert room.shelf.values == {}
    await room.get(Source())
    assert room.got == [b"load 1"]


async def test_what_the_shelf_refuses_reaches_all_who_wait(room: Room) -> None:
    source = Source(Gate())
    room.shelf.broken = PermissionError("read only")
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(room.get, source)
        await anyio.wait_all_tasks_blocked()
        source.gate.open()
    assert [str(error) for error in room.raised] == ["read only"] * 3


async def test_a_delete_while_the_loader_runs(room: Room) -> None:
    """Who asked before it may get the older value; who asks after it must not, and the older value is not stored."""
    old, new = Source(Gate()), Source()
    new.calls = 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, old)
        await old.gate.arrived()
        room.delete()
        await room.get(new)
        assert room.got == [b"load 2"]
        old.gate.open()
    assert room.got == [b"load 2", b"load 1"]
    assert room.shelf.values == {"key": b"load 2"}


async def test_a_delete_while_the_leader_asks(room: Room) -> None:
    """What it is told was so before the delete: it asks again."""
    room.shelf.values["key"] = b"old"
    room.shelf.finding = finding = Gate()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, Source())
        await finding.arrived()
        room.delete()
        finding.open()
    assert room.got == [b"load 1"]
    assert room.shelf.values == {"key": b"load 1"}


async def test_a_key_that_is_changed_all_the_time_is_loaded_in_the_end(room: Room) -> None:
    class Restless(MemoryShelf):
        async def find(self, key: str) -> bytes | None:
            room.loads.changed((key,), elsewhere=True)
            await super().find(key)
            return b"changed"

    loading = Loading(room.loads, Restless())
    with anyio.fail_after(5):
        assert await loading.get("key", Source(), None) == b"load 1"


@pytest.mark.parametrize("overtakes", [True, False])
async def test_a_delete_elsewhere_while_the_value_is_on_its_way(room: Room, overtakes: bool) -> None:
    """It may arrive before the value: that is taken back, unless stamps have settled it."""
    room.shelf = shelf = MemoryShelf(overtakes=overtakes)
    room.loading = Loading(room.loads, shelf)
    shelf.storing = Gate()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, Source())
        await shelf.storing.arrived()
        room.delete(elsewhere=True)
        shelf.storing.open()
    assert room.got == [b"load 1"]
    assert shelf.taken_back == (["key"] if overtakes else [])


async def test_a_delete_elsewhere_while_the_value_of_a_cancelled_caller_is_on_its_way(room: Room) -> None:
    room.shelf.storing = storing = Gate()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, Source())
        await storing.arrived()
        tasks.cancel_scope.cancel()
        room.delete(elsewhere=True)
        storing.open()
    assert room.shelf.values == {}


async def test_an_own_delete_can_wait_for_what_is_on_its_way(room: Room) -> None:
    room.shelf.storing = storing = Gate()
    waited: list[bytes | None] = []

    async def delete() -> None:
        await room.loading.stored(["key", "other"])
        waited.append(room.shelf.values.get("key"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, Source())
        await storing.arrived()
        tasks.start_soon(delete)
        await anyio.wait_all_tasks_blocked()
        assert waited == []
        storing.open()
    assert waited == [b"load 1"]
    await room.loading.stored(["key", "other"])
    assert room.shelf.taken_back == []


async def test_an_own_delete_of_many_keys_waits_for_values_that_arrive_together(room: Room) -> None:
    room.shelf.storing = storing = Gate()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for key in ("one", "two"):
                tasks.start_soon(room.loading.get, key, Source(), None)
            await anyio.wait_all_tasks_blocked()
            assert storing.arrivals == 2
            tasks.start_soon(room.loading.stored, ["one", "two"])
            await anyio.wait_all_tasks_blocked()
            storing.open()


async def test_what_was_loaded_is_stored_although_the_caller_was_cancelled(room: Room) -> None:
    room.shelf.storing = storing = Gate()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, Source())
        await storing.arrived()
        tasks.cancel_scope.cancel()
        storing.open()
    assert room.shelf.values == {"key": b"load 1"}


async def test_a_refresh_replaces(room: Room) -> None:
    room.shelf.values["key"] = b"old"
    await room.refresh(Source())
    assert room.got == [b"load 1"]
    assert room.shelf.values == {"key": b"load 1"}


async def test_a_refresh_does_not_join(room: Room) -> None:
    """It was asked for because something has changed: what began before is too old for it."""
    old, new = Source(Gate()), Source()
    new.calls = 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.get, old)
        await old.gate.arrived()
        await room.refresh(new)
        old.gate.open()
    assert room.got == [b"load 2", b"load 1"]
    assert room.shelf.values == {"key": b"load 2"}


async def test_a_loader_that_asks_for_its_own_key(room: Room) -> None:
    async def loader() -> bytes:
        return await room.loading.get("key", loader, None)

    with anyio.fail_after(5), pytest.raises(RuntimeError, match="itself"):
        await room.loading.get("key", loader, None)


async def test_a_loader_that_asks_for_its_own_key_in_a_task_of_its_own(room: Room) -> None:
    async def loader() -> bytes:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(room.loading.get, "key", loader, None)
        return b""

    with anyio.fail_after(5), pytest.raises(ExceptionGroup) as raised:
        await room.loading.get("key", loader, None)
    assert "itself" in str(raised.value.exceptions[0])


async def test_two_loaders_that_ask_for_each_other(room: Room) -> None:
    both = anyio.Event()
    begun: list[str] = []
    raised: list[str] = []

    def loader_of(key: str, other: str) -> Callable[[], Awaitable[bytes]]:
        async def loader() -> bytes:
            begun.append(key)
            if len(begun) == 2:
                both.set()
            await both.wait()
            return await room.loading.get(other, loader_of(other, key), None)

        return loader

    async def ask(key: str, other: str) -> None:
        try:
            await room.loading.get(key, loader_of(key, other), None)
        except RuntimeError as error:
            raised.append(str(error))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "a", "b")
            tasks.start_soon(ask, "b", "a")
    assert len(raised) == 2
    assert not room.loads


async def test_loaders_that_ask_for_other_keys(room: Room) -> None:
    async def inner() -> bytes:
        return b"inner"

    async def outer() -> bytes:
        return b"outer of " + await room.loading.get("inner", inner, None)

    assert await room.loading.get("key", outer, None) == b"outer of inner"
    assert room.shelf.values == {"inner": b"inner", "key": b"outer of inner"}
