"""The cache for threads: the same face, loaders in the threads that ask, and a clear end."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from meshcache import ClosedError, CodecError, MeshCache, Mode, ModeChanged, PeerJoined
from meshcache.blocking import BlockingCachedFunction, BlockingMeshCache
from meshcache.cached import CachedFunction
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import LOOPBACK
from tests.support import eventually_sync

CHECKOUT = Path(__file__).resolve().parents[3]
TIMEOUT = 10.0


def lone_cache(url: str | None, **options: Any) -> BlockingMeshCache:
    return BlockingMeshCache(url, **{"namespace": "test", "discovery": [], "interfaces": LOOPBACK, **options})


@pytest.fixture(params=["redis", "memory"])
def cache(request: pytest.FixtureRequest) -> Iterator[BlockingMeshCache]:
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else None
    with lone_cache(url) as cache:
        assert cache.mode == request.param
        yield cache


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


class Source:
    """What is behind the cache; held up until a test opens it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.calls = 0
        self.called = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> Any:
        self.calls += 1
        self.called.set()
        assert self.opened.wait(TIMEOUT)
        return self.value


def some_wait(futures: list[Future[Any]], cache: BlockingMeshCache) -> None:
    """Wait until as many loads are under way, in the eyes of the event loop, as there are futures."""
    assert cache._loop is not None
    eventually_sync(lambda: len(cache._loop._loads) == len(futures))


# -- the face


def face(kind: type) -> dict[str, Any]:
    """What a user sees of a class."""
    names = {"__aenter__": "__enter__", "__aexit__": "__exit__", "aclose": "close"}
    return {
        names.get(name, name): getattr(kind, name)
        for name in dir(kind)
        if not name.startswith("_") or name in ("__init__", *names, *names.values())
    }


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize(
    ("asynchronous", "blocking"), [(MeshCache, BlockingMeshCache), (CachedFunction, BlockingCachedFunction)]
)
def test_the_face_is_that_of_the_async_cache(asynchronous: type, blocking: type) -> None:
    one, other = face(asynchronous), face(blocking)
    assert set(one) == set(other)
    for name, member in one.items():
        assert type(member) is type(other[name]), name
        if callable(member) and not (name == "__init__" and asynchronous is CachedFunction):  # only caches make these
            assert parameters(member) == parameters(other[name]), name
            assert not inspect.iscoroutinefunction(other[name]), name
        assert other[name].__doc__ or name.startswith("_"), name


def test_every_call(cache: BlockingMeshCache) -> None:
    assert cache.set("a", {"x": 1}, ttl=60)
    assert not cache.set("a", 2, nx=True)
    assert cache.setex("b", 60, 2)
    assert cache.get("a") == {"x": 1}
    assert cache.get("nothing", default=7) == 7
    cache.set_many({"c": 3, "d": None}, ttl=60)
    assert cache.get_many(["a", "d", "nothing"]) == {"a": {"x": 1}, "d": None}
    assert cache.exists("a", "b", "nothing") == 2
    assert cache.expire("a", 30)
    assert cache.ttl("a") == 30
    assert cache.incr("b", 5, ttl=60) == 7
    assert cache.decr("b") == cache.get("b") == 6
    assert sorted(cache.keys()) == ["a", "b", "c", "d"]
    assert sorted(cache.scan("[ab]")) == ["a", "b"]
    assert cache.delete("a", "nothing") == 1
    assert cache.delete_many(["b"]) == 1
    assert cache.delete_match("c*") == 1
    assert cache.clear() == 1
    assert cache.ping() is cache.is_available
    assert bool(cache.info("server")) is cache.is_available
    assert cache.stats()["mode"] == cache.mode
    assert cache.peers == []
    assert len(cache.node_id) == 16
    with pytest.raises(TimeoutError, match="0 of 1 peers"):
        cache.wait_for_peers(1, timeout=0.01)
    assert repr(cache).startswith("<BlockingMeshCache 'test'")


def test_errors_are_those_of_the_async_cache(cache: BlockingMeshCache) -> None:
    with pytest.raises(ValueError, match="key"):
        cache.get("")
    with pytest.raises(CodecError):
        cache.set("key", object())
    with pytest.raises(ValueError, match="ttl"):
        cache.get_or_set("key", lambda: 1, ttl=-1)
    with pytest.raises(TypeError, match="loader"):
        cache.get_or_set("key", 1)  # type: ignore[arg-type]


def test_a_scan_of_many_keys(cache: BlockingMeshCache) -> None:
    values = {f"key:{i}": i for i in range(1201)}
    cache.set_many(values)
    keys = cache.scan()
    assert next(keys) in values
    assert len(list(keys)) == 1200
    assert list(keys) == []


def test_many_threads(cache: BlockingMeshCache, threads: ThreadPoolExecutor) -> None:
    def work(number: int) -> None:
        for i in range(20):
            cache.set(f"{number}", i)
            assert cache.get(f"{number}") == i

    for future in [threads.submit(work, number) for number in range(20)]:
        future.result(TIMEOUT)


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHCACHE_URL", "none")
    monkeypatch.setenv("MESHCACHE_CODEC", "text")
    with BlockingMeshCache.from_env(discovery=[], interfaces=LOOPBACK) as cache:
        with pytest.raises(CodecError, match="text"):
            cache.set("key", 1)
        assert cache.mode is Mode.MEMORY


# -- loading


def test_many_threads_make_one_load(cache: BlockingMeshCache, threads: ThreadPoolExecutor) -> None:
    source = Source({"name": "Ada"})
    futures = [threads.submit(cache.get_or_set, "key", source, 60) for _ in range(20)]
    assert source.called.wait(TIMEOUT)
    source.opened.set()
    assert [future.result(TIMEOUT) for future in futures] == [{"name": "Ada"}] * 20
    assert source.calls == 1
    assert cache.ttl("key") == 60


def test_the_loader_is_called_in_the_thread_that_asks(cache: BlockingMeshCache) -> None:
    assert cache.get_or_set("key", threading.get_ident) == threading.get_ident()
    assert cache.get_or_set("key", lambda: 0) == threading.get_ident()


def test_while_a_loader_blocks_others_are_answered(cache: BlockingMeshCache, threads: ThreadPoolExecutor) -> None:
    source = Source(1)
    future = threads.submit(cache.get_or_set, "key", source)
    assert source.called.wait(TIMEOUT)
    assert cache.set("other", 2)
    assert cache.get_or_set("third", lambda: cache.get("other")) == 2
    source.opened.set()
    assert future.result(TIMEOUT) == 1


def test_an_error_reaches_all_threads(cache: BlockingMeshCache, threads: ThreadPoolExecutor) -> None:
    source = Source(None)

    def fails() -> None:
        source()
        raise LookupError("no such user")

    futures = [threads.submit(cache.get_or_set, "key", fails) for _ in range(5)]
    some_wait(futures, cache)
    source.opened.set()
    for future in futures:
        with pytest.raises(LookupError, match="no such user"):
            future.result(TIMEOUT)
    assert cache.exists("key") == 0


def test_a_delete_while_a_thread_loads(cache: BlockingMeshCache, threads: ThreadPoolExecutor) -> None:
    source = Source("old")
    future = threads.submit(cache.get_or_set, "key", source)
    assert source.called.wait(TIMEOUT)
    cache.delete("key")
    assert cache.get_or_set("key", lambda: "new") == "new"
    source.opened.set()
    assert future.result(TIMEOUT) == "old"
    assert cache.get("key") == "new"


def test_a_loader_that_asks_for_its_own_key(cache: BlockingMeshCache) -> None:
    def loader() -> Any:
        return cache.get_or_set("key", loader)

    with pytest.raises(RuntimeError, match="itself"):
        cache.get_or_set("key", loader)


def test_async_loaders_are_refused(cache: BlockingMeshCache) -> None:
    async def load() -> int:
        return 1

    with pytest.raises(TypeError, match="plain function"):
        cache.get_or_set("key", load)
    with pytest.raises(TypeError, match="async"):
        cache.cached()(load)


def test_another_thread_takes_over_from_one_that_is_interrupted(
    cache: BlockingMeshCache, threads: ThreadPoolExecutor
) -> None:
    """Ctrl-C in a loader ends that call and no other."""
    source = Source("value")

    def interrupted() -> Any:
        source()
        raise KeyboardInterrupt

    first = threads.submit(cache.get_or_set, "key", interrupted)
    assert source.called.wait(TIMEOUT)
    others = [threads.submit(cache.get_or_set, "key", lambda: "taken over") for _ in range(3)]
    some_wait([first, *others], cache)
    source.opened.set()
    with pytest.raises(KeyboardInterrupt):
        first.result(TIMEOUT)
    assert [other.result(TIMEOUT) for other in others] == ["taken over"] * 3


def test_cached(cache: BlockingMeshCache) -> None:
    calls: list[int] = []

    @cache.cached(ttl=60, key="user:{id}")
    def load_user(id: int) -> str:
        calls.append(id)
        return f"{id}, call {len(calls)}"

    assert load_user(1) == load_user(id=1) == "1, call 1"
    assert cache.ttl("user:1") == 60
    assert load_user.refresh(1) == load_user(1) == "1, call 2"
    assert load_user.invalidate(1) is True
    assert load_user.invalidate(1) is False
    assert load_user(1) == "1, call 3"
    assert load_user.key(1) == "user:1"
    assert load_user.__name__ == "load_user"


def test_cached_methods(cache: BlockingMeshCache) -> None:
    class Users:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        @cache.cached(key=lambda self, id: f"{self.tenant}:{id}")
        def load(self, id: int) -> str:
            return f"{self.tenant} {id}"

    assert Users("one").load(1) == "one 1"
    assert Users("two").load(1) == "two 1"
    assert Users("one").load.invalidate(1)
    assert cache.keys() == ["two:1"]


def test_cached_before_the_cache_is_open(redis_server: RedisServer) -> None:
    cache = lone_cache(redis_server.url)

    @cache.cached()
    def twice(number: int) -> int:
        return number * 2

    for call in (twice, twice.invalidate, twice.refresh):
        with pytest.raises(ClosedError, match="open the cache first"):
            call(2)
    with cache:
        assert twice(2) == 4
    with pytest.raises(ClosedError, match="closed"):
        twice(2)


def test_wrong_use_of_cached_is_told_at_once(cache: BlockingMeshCache) -> None:
    with pytest.raises(ValueError, match="ttl"):
        cache.cached(ttl=0)
    with pytest.raises(ValueError, match="no parameter of"):
        cache.cached(key="{nothing}")(lambda: 1)

    def make(factor: int) -> Callable[[int], int]:
        @cache.cached()
        def times(number: int) -> int:
            return factor * number

        return times

    make(2)
    with pytest.raises(ValueError, match="pass key="):
        make(3)


# -- outages and events


def test_an_outage_and_its_events(redis_server: RedisServer, threads: ThreadPoolExecutor) -> None:
    with OutageProxy(redis_server.host, redis_server.port) as proxy, lone_cache(proxy.url) as cache:
        events = cache.events()
        proxy.refuse()
        assert cache.set("key", "in the outage")
        assert cache.get("key") == "in the outage"
        assert cache.mode is Mode.MEMORY
        proxy.forward()
        eventually_sync(lambda: cache.mode is Mode.REDIS, 10)
        seen = [threads.submit(next, events).result(TIMEOUT) for _ in range(3)]
        assert [event.new for event in seen if isinstance(event, ModeChanged)] == ["memory", "recovering", "redis"]
        assert cache.get("key") == "in the outage"


def test_two_caches_meet() -> None:
    with lone_cache(None, secret="the secret of these tests") as one:
        port = one._cache._open()._socket.port
        events = one.events()
        options = {"secret": "the secret of these tests", "discovery": [f"127.0.0.1:{port}"]}
        with lone_cache(None, **options) as two:
            assert [peer.node_id for peer in one.wait_for_peers(1)] == [two.node_id]
            assert isinstance(next(events), PeerJoined)
            one.set("key", "shared")
            eventually_sync(lambda: two.get("key") == "shared")


# -- the end


def test_not_open() -> None:
    cache = lone_cache(None)
    with pytest.raises(ClosedError, match="with BlockingMeshCache"):
        cache.get("key")
    assert cache.mode is Mode.MEMORY
    assert cache.peers == []
    cache.close()


def test_closed(redis_server: RedisServer) -> None:
    before = threading.active_count()
    with lone_cache(redis_server.url) as cache:
        cache.set("key", 1)
        with pytest.raises(ClosedError), cache:
            pass
        assert cache.get("key") == 1
    for call in (cache.ping, cache.stats, cache.keys, cache.events, functools.partial(cache.get, "key")):
        with pytest.raises(ClosedError, match="closed"):
            call()
    with pytest.raises(ClosedError), cache:
        pass
    cache.close()
    assert threading.active_count() == before


def test_closing_ends_those_who_wait(redis_server: RedisServer, threads: ThreadPoolExecutor) -> None:
    source = Source("value")
    with lone_cache(redis_server.url) as cache:
        events = threads.submit(list, cache.events())
        peers = threads.submit(cache.wait_for_peers, 1)
        loads = [threads.submit(cache.get_or_set, "key", source) for _ in range(3)]
        some_wait(loads, cache)
        assert source.called.wait(TIMEOUT)
    assert events.result(TIMEOUT) == []
    with pytest.raises(ClosedError):
        peers.result(TIMEOUT)
    source.opened.set()  # closing has not waited for the loader
    for load in loads:
        with pytest.raises(ClosedError):
            load.result(TIMEOUT)


def test_closing_while_many_threads_call(redis_server: RedisServer, threads: ThreadPoolExecutor) -> None:
    """Each call is answered or refused; none hangs."""
    for _ in range(5):
        cache = lone_cache(redis_server.url)
        calls = [0] * 10

        def work(number: int, cache: BlockingMeshCache = cache, calls: list[int] = calls) -> None:
            with suppress(ClosedError):
                while True:
                    cache.get_or_set(f"{calls[number] % 7}", lambda: 1, ttl=0.001)
                    calls[number] += 1

        with cache:
            futures = [threads.submit(work, number) for number in range(10)]
            eventually_sync(lambda calls=calls: min(calls) > 3)
            closers = [threads.submit(cache.close) for _ in range(2)]
        for future in futures + closers:
            future.result(TIMEOUT)


def test_a_wrong_option_starts_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="interfaces"), lone_cache(None, interfaces=["192.0.2.1"]):
        pass
    assert threading.active_count() == before


PROGRAM = """
import gc, os, sys
from meshcache import ClosedError
from meshcache.blocking import BlockingMeshCache

OPTIONS = dict(namespace="fork", discovery=[], interfaces=["127.0.0.1"])

def child(inherited, parent_id, keys):
    calls = [inherited.ping, lambda: inherited.get("key"), lambda: inherited.get_or_set("key", int), lambda: next(keys)]
    for call in calls:
        try:
            call()
        except ClosedError as error:
            assert "fork" in str(error)
        else:
            raise AssertionError("the inherited cache still answers")
    inherited.close()
    with BlockingMeshCache(sys.argv[1], **OPTIONS) as own:
        assert own.node_id != parent_id
        assert own.get("key") == "parent"
        own.set("key", "child")

with BlockingMeshCache(sys.argv[1], **OPTIONS) as cache:
    cache.set("key", "parent")
    parent_id = cache.node_id
    keys = cache.scan()
    pid = os.fork()
    if pid == 0:
        child(cache, parent_id, keys)
        cache = None
        gc.collect()
        sys.exit(0)  # with all that Python does at its end
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert cache.get("key") == "child"
"""

FORGETFUL = """
import atexit, sys
from meshcache.blocking import BlockingMeshCache

cache = BlockingMeshCache(sys.argv[1], secret="some secret", discovery=[], interfaces=["127.0.0.1"])
atexit.register(lambda: print(repr(cache).rpartition(" ")[2]))
cache.__enter__()
cache.set("key", 1)
print(cache.get("key"))
"""

INTERRUPTED = """
import signal
from meshcache.blocking import BlockingMeshCache
from meshcache.testing.server import RedisServer

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
with RedisServer() as server, BlockingMeshCache(server.url, discovery=[], interfaces=["127.0.0.1"]) as cache:
    events = cache.events()
    try:
        print("waits", flush=True)
        next(events)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    server.kill()
    cache.set("key", 1)
    print(cache.get("key"))
    print(next(events).new)
"""


def run(program: str, url: str) -> str:
    command = [sys.executable, "-c", program, url]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, cwd=CHECKOUT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_makes_a_cache_of_its_own(redis_server: RedisServer) -> None:
    run(PROGRAM, redis_server.url)


def test_a_program_that_forgets_to_close_ends(redis_server: RedisServer) -> None:
    """And says goodbye."""
    assert run(FORGETFUL, redis_server.url) == "1\nclosed>\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT")
def test_one_who_waits_can_be_interrupted() -> None:
    """And loses nothing by it."""
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        assert process.stdout is not None
        alarm = threading.Timer(20, process.kill)
        alarm.start()
        assert process.stdout.readline() == "waits\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == "interrupted\n1\nmemory\n"
        alarm.cancel()
    assert process.returncode == 0
