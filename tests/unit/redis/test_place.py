"""What is taken out of a ready client, and what is refused; and who may be asked for a password.  No I/O."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel as AsyncioSentinel
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider
from redis.sentinel import Sentinel

from meshcache import MeshCache
from meshcache.errors import ConfigError, Unavailable
from meshcache.redis.credentials import Credentials
from meshcache.redis.place import read_place
from meshcache.redis.tls import Tls
from meshcache.redis.url import ClusterEndpoint, Endpoint, SentinelEndpoint, parse_url

CLIENTS = pytest.mark.parametrize("client", [redis.Redis, redis.asyncio.Redis])


@CLIENTS
def test_a_client_of_one_server(client: Any) -> None:
    place, shown_as = read_place(client(host="h", port=7, db=2, username="ada", password="pw"))
    assert place == Endpoint(scheme="redis", host="h", port=7, db=2, username="ada", password="pw")
    assert shown_as == "redis://h:7/2"


@CLIENTS
def test_what_the_defaults_are(client: Any) -> None:
    assert read_place(client())[0] == Endpoint(scheme="redis")


@CLIENTS
@pytest.mark.parametrize(
    "url",
    [
        "redis://ada:pw@h:7/2",
        "redis://[::1]:7/0",
        "rediss://:pw@h/1?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required",
        "unix://ada:pw@/run/redis.sock?db=3",
    ],
)
def test_a_client_made_from_a_url_is_that_url(client: Any, url: str) -> None:
    place, shown_as = read_place(client.from_url(url))
    assert place == parse_url(url)
    assert "pw" not in shown_as


@CLIENTS
def test_a_unix_socket(client: Any) -> None:
    place, shown_as = read_place(client(unix_socket_path="/run/redis.sock", db=1))
    assert place == Endpoint(scheme="unix", path="/run/redis.sock", db=1)
    assert shown_as == "unix:///run/redis.sock?db=1"


@CLIENTS
def test_tls(client: Any) -> None:
    place, shown_as = read_place(
        client(ssl=True, ssl_ca_certs="/ca.pem", ssl_certfile="/c.pem", ssl_keyfile="/k.pem", ssl_check_hostname=False)
    )
    assert isinstance(place, Endpoint)
    assert place.scheme == "rediss"
    assert {
        name: place.tls[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
    } == {
        "ssl_ca_certs": "/ca.pem",
        "ssl_certfile": "/c.pem",
        "ssl_keyfile": "/k.pem",
        "ssl_check_hostname": False,
    }
    assert shown_as == "rediss://localhost:6379/0"


@pytest.mark.parametrize(
    ("options", "verify", "check_hostname"),
    [
        ({}, ssl.CERT_REQUIRED, True),
        ({"ssl_cert_reqs": None}, ssl.CERT_NONE, False),
        ({"ssl_cert_reqs": "none", "ssl_check_hostname": True}, ssl.CERT_NONE, False),
        ({"ssl_cert_reqs": ssl.CERT_OPTIONAL}, ssl.CERT_OPTIONAL, True),
        ({"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": False}, ssl.CERT_REQUIRED, False),
        ({"ssl_ca_certs": None, "ssl_certfile": None, "ssl_ciphers": None}, ssl.CERT_REQUIRED, True),
    ],
)
def test_what_tls_options_mean(options: dict[str, Any], verify: ssl.VerifyMode, check_hostname: bool) -> None:
    context = Tls(options).load()
    assert context.verify_mode is verify
    assert context.check_hostname is check_hostname


def test_the_rarer_tls_options() -> None:
    flag = ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    context = Tls(
        {
            "ssl_min_version": ssl.TLSVersion.TLSv1_3,
            "ssl_ciphers": "ECDHE-RSA-AES256-GCM-SHA384",
            "ssl_include_verify_flags": [flag],
            "ssl_exclude_verify_flags": [ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST],
        }
    ).load()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_flags & flag
    assert not context.verify_flags & ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    with pytest.raises(Unavailable, match="ssl_… options do not work"):
        Tls({"ssl_ciphers": "NO-SUCH-CIPHER"}).load()
    with pytest.raises(Unavailable, match="ssl_… options do not work"):
        Tls({"ssl_ca_data": "no certificate"}).load()


@pytest.mark.parametrize("sentinel", [Sentinel, AsyncioSentinel])
def test_a_client_of_sentinels(sentinel: Any) -> None:
    sentinels = sentinel([("a", 1), ("b", 2)], sentinel_kwargs={"password": "spw"}, username="ada", password="pw", db=3)
    place, shown_as = read_place(sentinels.master_for("mymaster"))
    assert place == SentinelEndpoint(
        sentinels=(
            Endpoint(scheme="redis", host="a", port=1, password="spw"),
            Endpoint(scheme="redis", host="b", port=2, password="spw"),
        ),
        service="mymaster",
        master=Endpoint(scheme="redis", db=3, username="ada", password="pw"),
    )
    assert shown_as == "redis+sentinel://a:1,b:2/mymaster/3"


def test_a_client_of_a_cluster() -> None:
    place, shown_as = read_place(redis.asyncio.RedisCluster(host="h", port=7, password="pw"))
    assert place == ClusterEndpoint(seeds=(Endpoint(scheme="redis", host="h", port=7, password="pw", in_cluster=True),))
    assert shown_as == "redis+cluster://h:7"
    secure, shown_as = read_place(redis.asyncio.RedisCluster(host="h", ssl=True, ssl_ca_certs="/ca.pem"))
    assert isinstance(secure, ClusterEndpoint)
    assert secure.seeds[0].scheme == "rediss"
    assert secure.seeds[0].tls["ssl_ca_certs"] == "/ca.pem"
    assert shown_as == "rediss+cluster://h:6379"


class OwnConnection(redis.Connection):
    pass


@pytest.mark.parametrize(
    ("client", "problem"),
    [
        (Sentinel([("a", 1)]), r"a Sentinel of redis-py cannot be handed in, but what its master_for\(service\) gives"),
        (Sentinel([("a", 1)]).slave_for("m"), r"a client of replicas takes no writes"),
        (Sentinel([("a", 1)], min_other_sentinels=1).master_for("m"), "min_other_sentinels"),
        (Sentinel([("a", 1)], force_master_ip="10.0.0.1").master_for("m"), "force_master_ip"),
        (redis.ConnectionPool(), "a ConnectionPool of redis-py cannot be handed in"),
        (redis.Redis.from_pool(redis.ConnectionPool(connection_class=OwnConnection)), r"its own \(OwnConnection\)"),
        (redis.Redis(redis_connect_func=print), "redis_connect_func of the client cannot be taken over"),
        (redis.Redis(ssl=True, ssl_validate_ocsp=True), "ssl_validate_ocsp of the client cannot be taken over"),
        (redis.Redis, "must be a str, a client of redis-py, or None, not "),
        (6379, "must be a str, a client of redis-py, or None, not int"),
        (b"redis://h", "must be a str, a client of redis-py, or None, not bytes"),
    ],
)
def test_what_cannot_be_handed_in(client: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        MeshCache(client)
    assert caught.value.option == "url"


# -- passwords that are asked for


def test_a_provider_of_the_client_is_taken() -> None:
    provider = UsernamePasswordCredentialProvider("ada", "pw")
    place, _ = read_place(redis.Redis(credential_provider=provider))
    assert isinstance(place, Endpoint)
    assert place.credentials is not None
    assert place.credentials.get_credentials() == ("ada", "pw")
    assert place.connection_arguments() == {
        "host": "localhost",
        "port": 6379,
        "db": 0,
        "credential_provider": place.credentials,
    }


@pytest.mark.parametrize("url", ["redis://h", "redis+sentinel://a,b/m", "redis+cluster://a,b"])
def test_one_may_be_given_with_a_url(url: str) -> None:
    place, _ = read_place(url, lambda: "pw")
    match place:
        case SentinelEndpoint():
            asked, not_asked = [place.master], list(place.sentinels)
        case ClusterEndpoint():
            asked, not_asked = list(place.seeds), []
        case _:
            asked, not_asked = [place], []
    assert [endpoint.credentials.get_credentials() for endpoint in asked if endpoint.credentials] == [("pw",)] * len(
        asked
    )
    assert [endpoint.credentials for endpoint in not_asked] == [None] * len(not_asked)


@pytest.mark.parametrize("url", ["redis://:pw@h", "redis+sentinel://ada@a,b/m", "redis+cluster://:pw@a"])
def test_not_both(url: str) -> None:
    with pytest.raises(ConfigError, match="leave one of them out") as caught:
        MeshCache(url, credential_provider=lambda: "other")
    assert caught.value.option == "credential_provider"


async def later() -> str:
    return "pw"


@pytest.mark.parametrize("provider", ["pw", 5, later, CredentialProvider, object()])
def test_who_cannot_be_asked(provider: object) -> None:
    with pytest.raises(ConfigError, match="CredentialProvider, or a function") as caught:
        MeshCache(credential_provider=provider)
    assert caught.value.option == "credential_provider"
    assert "pw'" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ("pw", ("pw",)),
        (("pw",), ("pw",)),
        (("ada", "pw"), ("ada", "pw")),
        (["ada", "pw"], ("ada", "pw")),
        (("", "pw"), ("pw",)),
        ((None, "pw"), ("pw",)),
    ],
)
def test_what_may_be_answered(answer: Any, taken: tuple[str, ...]) -> None:
    assert Credentials(lambda: answer).get_credentials() == taken


@pytest.mark.parametrize("answer", [None, "", (), ("a", "b", "c"), ("ada", ""), ("ada", None), 5, b"pw"])
def test_what_may_not(answer: Any) -> None:
    with pytest.raises(Unavailable, match="gave neither a password"):
        Credentials(lambda: answer).get_credentials()


def test_one_that_fails_is_an_outage_that_gives_nothing_away() -> None:
    def fail(error: Exception) -> str:
        raise error

    with pytest.raises(Unavailable, match=r"^the credential provider failed \(ValueError\)$"):
        Credentials(lambda: fail(ValueError("hunter2"))).get_credentials()
    with pytest.raises(Unavailable, match=r"^the credential provider failed \(FileNotFoundError: No such file"):
        Credentials(lambda: fail(FileNotFoundError(2, "No such file", "/secret"))).get_credentials()


class OnlyBlocking(CredentialProvider):
    def get_credentials(self) -> tuple[str]:
        return ("blocking",)


class Both(OnlyBlocking):
    async def get_credentials_async(self) -> tuple[str]:
        return ("asyncio",)


@pytest.mark.anyio
@pytest.mark.parametrize(("provider", "answer"), [(OnlyBlocking(), "blocking"), (Both(), "asyncio")])
async def test_asyncio_has_a_way_of_its_own(provider: CredentialProvider, answer: str) -> None:
    assert await Credentials(provider).get_credentials_async() == (answer,)
    assert await Credentials(provider).get_credentials_in_thread() == ("blocking",)
