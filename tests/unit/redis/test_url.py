"""URLs: what is taken, what is refused with a fix, and that no password is ever shown."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.errors import ConfigError
from meshcache.redis.url import ClusterEndpoint, Endpoint, SentinelEndpoint, check_url, parse_url, redact


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://localhost:6379/0", Endpoint(scheme="redis")),
        ("redis://", Endpoint(scheme="redis")),
        ("REDIS://Example.com", Endpoint(scheme="redis", host="example.com")),
        ("redis://h:1/2", Endpoint(scheme="redis", host="h", port=1, db=2)),
        ("redis://h/", Endpoint(scheme="redis", host="h")),
        ("redis://h?db=3", Endpoint(scheme="redis", host="h", db=3)),
        ("redis://[::1]:6380/1", Endpoint(scheme="redis", host="::1", port=6380, db=1)),
        ("redis://:p%40ss%2F@h", Endpoint(scheme="redis", host="h", password="p@ss/")),
        ("redis://ada:pw@h", Endpoint(scheme="redis", host="h", username="ada", password="pw")),
        ("redis://h?username=ada&password=pw", Endpoint(scheme="redis", host="h", username="ada", password="pw")),
        ("rediss://h", Endpoint(scheme="rediss", host="h")),
        (
            "rediss://h?ssl_ca_certs=/ca.pem&ssl_check_hostname=false&ssl_cert_reqs=none",
            Endpoint(
                scheme="rediss",
                host="h",
                tls={"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": False, "ssl_cert_reqs": "none"},
            ),
        ),
        ("unix:///run/redis.sock", Endpoint(scheme="unix", path="/run/redis.sock")),
        ("unix://ada:pw@/a%20b?db=4", Endpoint(scheme="unix", path="/a b", db=4, username="ada", password="pw")),
        (
            "redis+sentinel://a,b:1,[::1]:2/mymaster",
            SentinelEndpoint(
                sentinels=(
                    Endpoint(scheme="redis", host="a", port=26_379),
                    Endpoint(scheme="redis", host="b", port=1),
                    Endpoint(scheme="redis", host="::1", port=2),
                ),
                service="mymaster",
                master=Endpoint(scheme="redis"),
            ),
        ),
        (
            "rediss+sentinel://ada:pw@a/my%20master/3?sentinel_password=spw&ssl_ca_certs=/ca.pem",
            SentinelEndpoint(
                sentinels=(
                    Endpoint(scheme="rediss", host="a", port=26_379, password="spw", tls={"ssl_ca_certs": "/ca.pem"}),
                ),
                service="my master",
                master=Endpoint(scheme="rediss", db=3, username="ada", password="pw", tls={"ssl_ca_certs": "/ca.pem"}),
            ),
        ),
        (
            "redis+cluster://:p,w@a,b:1/0",
            ClusterEndpoint(
                seeds=(
                    Endpoint(scheme="redis", host="a", password="p,w", in_cluster=True),
                    Endpoint(scheme="redis", host="b", port=1, password="p,w", in_cluster=True),
                )
            ),
        ),
    ],
)
def test_what_is_taken(url: str, endpoint: Endpoint) -> None:
    assert check_url(url) == url
    assert parse_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("http://h", "must begin with redis://"),
        (" redis://h", "must begin with redis://"),
        (6379, "must be text"),
        (None, "must be text"),
        (b"redis://h", "must be text"),
        ("redis+sentinel://a,b", "name the service"),
        ("redis+sentinel://a,b/", "name the service"),
        ("redis+sentinel://a,b/mymaster/x", "database must be a number"),
        ("redis+sentinel://a,b:0/mymaster", "1 to 65535"),
        ("redis+sentinel://a,b:port/mymaster", "host and port cannot be read"),
        ("redis+sentinel://:pa/ss@a,b/mymaster", "percent-encoded"),
        ("redis+sentinel://a/mymaster?ssl_ca_certs=/x", "needs rediss\\+sentinel://"),
        ("unix+sentinel://a/mymaster", "must begin with redis://"),
        ("redis+cluster://a,b/1", "no database but 0"),
        ("redis+cluster://a,b?db=2", "no database but 0"),
        ("redis+cluster://a?sentinel_password=x", "is not an option of this URL"),
        ("redis://a,b", "several hosts need redis\\+sentinel://"),
        ("redis://h:0", "1 to 65535"),
        ("redis://h:65536", "host and port cannot be read"),
        ("redis://h:port", "host and port cannot be read"),
        ("redis://[::1", "host and port cannot be read"),
        ("redis://:pa#ss@h", "percent-encoded"),
        ("redis://:pa/ss@h:6379", "percent-encoded"),
        ("redis://:pa ss@h:6379", "spaces"),
        ("redis://h:6379\n", "line breaks"),
        ("redis://h/mydb", "database must be a number"),
        ("redis://h/-1", "database must be a number"),
        ("redis://h/1/2", "database must be a number"),
        ("redis://h?db=x", "database must be a number"),
        ("redis://h?socket_timeout=3", "use op_timeout"),
        ("redis://h?retry_on_timeout=1", "use op_timeout"),
        ("redis://h?decode_responses=1", "known are db, password, username"),
        ("redis://h?ssl_ca_certs=/x", "needs rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "required, optional or none"),
        ("rediss://h?ssl_check_hostname=maybe", "true or false"),
        ("unix://run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
    ],
)
def test_what_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        check_url(url)
    assert caught.value.option == "url"


@pytest.mark.parametrize(
    "password", ["hunter2xyz", "hunter2xyz#a", "hunter2xyz/b", "hunter2xyz?c", "hunter2xyz@d", "hunter2xyz e"]
)
@pytest.mark.parametrize(
    "form",
    [
        "redis://:{}@h:6379/0",
        "redis://ada:{}@h/x",
        "unix://:{}@/s",
        "redis://h?password={}",
        "rediss://h?ssl_password={}&nix=1",
        "redis+sentinel://:{}@a,b:1/mymaster",
        "redis+sentinel://a,b/mymaster?sentinel_password={}",
        "redis+cluster://ada:{}@a,b:1",
        "{}@h",
        "ada:{}",
    ],
)
def test_no_password_is_shown(form: str, password: str) -> None:
    url = form.format(password)
    assert "hunter2" not in redact(url)
    try:
        shown = repr(parse_url(url)) + parse_url(url).name
    except ConfigError as error:
        shown = "".join(traceback.format_exception(error, limit=0))
    assert "hunter2" not in shown


def test_redact_shows_the_rest() -> None:
    assert redact("redis://ada:pw@h:6379/0?db=1&password=pw") == "redis://ada:***@h:6379/0?db=1&password=***"
    assert redact("redis://localhost:6379/0") == "redis://localhost:6379/0"
    assert redact("rediss://h?ssl_ca_certs=/ca.pem") == "rediss://h?ssl_ca_certs=/ca.pem"


def test_redact_shows_several_hosts() -> None:
    url = "redis+sentinel://ada:pw@a,b:1/mymaster/0?sentinel_password=pw"
    assert redact(url) == "redis+sentinel://ada:***@a,b:1/mymaster/0?sentinel_password=***"
    assert redact("redis+cluster://a:1,b:2") == "redis+cluster://a:1,b:2"


def test_names_for_logs() -> None:
    assert parse_url("redis://h:1").name == "h:1"
    assert parse_url("redis://[::1]").name == "[::1]:6379"
    assert parse_url("unix:///run/redis.sock").name == "/run/redis.sock"
    assert parse_url("redis+sentinel://a,b/mymaster").name == "the master of mymaster"
    assert parse_url("redis+cluster://a,b:1").name == "the cluster at a:6379, b:1"


SCHEMES = st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "rediss+cluster"])


@given(st.text(max_size=60) | st.builds("{}://{}".format, SCHEMES, st.text(max_size=40)))
def test_any_text_is_taken_or_refused(url: str) -> None:
    redact(url)
    try:
        endpoint = parse_url(url)
    except ConfigError:
        return
    match endpoint:
        case SentinelEndpoint():
            endpoints = endpoint.sentinels
        case ClusterEndpoint():
            endpoints = endpoint.seeds
        case _:
            endpoints = (endpoint,)
    for endpoint in endpoints:
        assert endpoint.host
        assert 0 < endpoint.port < 65_536
