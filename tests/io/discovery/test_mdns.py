"""mDNS on the loopback interface alone."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

import anyio
import anyio.to_thread
import pytest
from zeroconf import ServiceInfo, Zeroconf

from meshcache.discovery import Announcement, Mdns
from meshcache.discovery.mdns import SERVICE_TYPE, namespace_digest
from tests.support import eventually

pytestmark = pytest.mark.anyio

_namespaces = (f"test-{secrets.token_hex(8)}" for _ in count())


class Instance:
    """One instance as discovery sees it; ``found`` is what it was told, in order."""

    def __init__(self, namespace: str, interfaces: list[str] | None) -> None:
        port = 20_000 + secrets.randbelow(40_000)
        self.announcement = Announcement(secrets.randbits(64), namespace, ("127.0.0.1",), port)
        self.candidate = ("127.0.0.1", self.announcement.port)
        self.source = Mdns(interfaces)
        self.found: list[tuple[str, int]] = []
        self._thread = threading.get_ident()

    async def run(self) -> None:
        await self.source.run(self.announcement, self._found)

    def _found(self, host: str, port: int) -> None:
        assert threading.get_ident() == self._thread
        self.found.append((host, port))

    def sees(self, *others: Instance) -> Callable[[], bool]:
        return lambda: {other.candidate for other in others} <= set(self.found)


@asynccontextmanager
async def running(*instances: Instance) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for instance in instances:
            tasks.start_soon(instance.run)
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture
def instance() -> Callable[..., Instance]:
    """Makes instances of a namespace that no other test on this machine has."""
    own = next(_namespaces)

    def make(namespace: str = "", interfaces: list[str] | None = ["127.0.0.1"]) -> Instance:  # noqa: B006
        return Instance(own + namespace, interfaces)

    return make


def threads_of_zeroconf() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "zeroconf" in thread.name or "_run_loop" in thread.name]


@pytest.mark.parametrize("size", [2, 3])
async def test_instances_find_each_other_and_not_themselves(size: int, instance: Callable[..., Instance]) -> None:
    all_of_them = [instance() for _ in range(size)]
    async with running(*all_of_them):
        for one in all_of_them:
            await eventually(one.sees(*(other for other in all_of_them if other is not one)), timeout=2)
    for one in all_of_them:
        assert one.candidate not in one.found


async def test_the_announcement_says_where_to_speak_if_nothing_else_does(instance: Callable[..., Instance]) -> None:
    one, two = instance(interfaces=None), instance(interfaces=None)
    async with running(one, two):
        await eventually(one.sees(two), timeout=2)
        await eventually(two.sees(one), timeout=2)


async def test_a_latecomer_is_seen_at_once(instance: Callable[..., Instance]) -> None:
    early, late = instance(), instance()
    async with running(early):
        await anyio.sleep(0.5)
        async with running(late):
            await eventually(early.sees(late), timeout=2)
            await eventually(late.sees(early), timeout=4)


async def test_another_namespace_is_not_seen(instance: Callable[..., Instance]) -> None:
    mine, ours, theirs = instance("mine"), instance("mine"), instance("theirs")
    async with running(mine, theirs, ours):
        await eventually(mine.sees(ours), timeout=2)
        await anyio.sleep(0.5)
    assert set(mine.found) == {ours.candidate}
    assert theirs.found == []


async def test_what_stands_is_repeated_and_what_said_goodbye_is_not(
    instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshcache.discovery.mdns._REPEAT_SECONDS", 0.05)
    one, stays, goes = instance(), instance(), instance()
    async with running(one, stays):
        async with running(goes):
            await eventually(lambda: min(one.found.count(other.candidate) for other in (stays, goes)) >= 3)

        # Goodbye takes effect one second after it was said (RFC 6762, section 10.1).
        async def gone() -> bool:
            one.found.clear()
            await anyio.sleep(0.2)
            return set(one.found) == {stays.candidate}

        await eventually(gone, timeout=4)


async def test_ends_within_a_second_without_holding_up_the_loop_or_leaving_threads(
    instance: Callable[..., Instance],
) -> None:
    one = instance()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0.005)
            turns += 1

    async with anyio.create_task_group() as watch:
        watch.start_soon(count_turns)
        async with running(one):
            await anyio.sleep(0.7)
            ending, turns = anyio.current_time(), 0
        assert anyio.current_time() - ending < 1.5
        assert turns >= 5  # goodbyes are said for 0.25 s
        watch.cancel_scope.cancel()
    assert threads_of_zeroconf() == []


async def test_can_be_cancelled_at_any_moment(instance: Callable[..., Instance]) -> None:
    for milliseconds in (0, 1, 5, 20, 60, 150):
        with anyio.fail_after(5), anyio.move_on_after(milliseconds / 1000):
            await instance().run()
    assert threads_of_zeroconf() == []


async def test_runs_again_after_its_end(instance: Callable[..., Instance]) -> None:
    one, two = instance(), instance()
    async with running(two):
        for _ in range(2):
            one.found.clear()
            async with running(one):
                await eventually(one.sees(two), timeout=4)


@pytest.mark.parametrize("interfaces", [["203.0.113.9"], ["eth-none"]])
async def test_no_usable_interface_is_raised_as_it_is(interfaces: list[str], instance: Callable[..., Instance]) -> None:
    with pytest.raises(RuntimeError, match=f"no network interface to use: wanted {interfaces[0]}"):
        await instance(interfaces=interfaces).run()


async def test_an_error_of_the_one_who_listens_comes_out_as_it_is(instance: Callable[..., Instance]) -> None:
    one, two = instance(), instance()

    class Refused(Exception):
        pass

    def refuse(host: str, port: int) -> None:
        raise Refused

    async with running(two):
        with anyio.fail_after(5), pytest.raises(Refused):
            await one.source.run(one.announcement, refuse)


async def test_a_program_that_keeps_all_threads_busy_does_not_hinder_it(instance: Callable[..., Instance]) -> None:
    release = threading.Event()
    limiter = anyio.to_thread.current_default_thread_limiter()
    one, two = instance(), instance()
    async with anyio.create_task_group() as tasks:
        for _ in range(int(limiter.total_tokens)):
            tasks.start_soon(anyio.to_thread.run_sync, release.wait)
        try:
            async with running(one, two):
                await eventually(one.sees(two), timeout=4)
        finally:
            release.set()


async def test_announcements_of_others_that_make_no_sense_do_no_harm(instance: Callable[..., Instance]) -> None:
    """Whoever is on the network may announce what he likes."""
    one, two = instance(), instance()

    def announce() -> Zeroconf:
        zeroconf = Zeroconf(interfaces=["127.0.0.1"], use_asyncio=False)
        good = {"v": "1", "ns": namespace_digest(one.announcement.namespace), "id": "f" * 16}
        for number, properties in enumerate(
            [{}, {"v": b"\xff\xfe"}, {**good, "v": "9"}, b"\xff" * 40, {**good, "id": "x"}]
        ):
            info = ServiceInfo(
                SERVICE_TYPE,
                f"stranger-{number}.{SERVICE_TYPE}",
                port=19_000 + number,
                properties=properties,
                server=f"stranger-{number}.local.",
                parsed_addresses=["127.0.0.1", "224.0.0.251"],
            )
            zeroconf.register_service(info, cooperating_responders=True)
        return zeroconf

    async with running(one):
        strangers = await anyio.to_thread.run_sync(announce)
        try:
            async with running(two):
                await eventually(one.sees(two), timeout=4)
                await eventually(lambda: ("127.0.0.1", 19_004) in one.found)
        finally:
            await anyio.to_thread.run_sync(strangers.close)
    assert set(one.found) == {two.candidate, ("127.0.0.1", 19_004)}
