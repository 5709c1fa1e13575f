"""The options: each bad value is a ConfigError that names the option and the fix, before anything is started."""

from __future__ import annotations

import inspect
import math
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from typing import Any

import pytest

from meshcache.arguments import ttl_to_ms
from meshcache.codecs import CODECS, JsonCodec, MsgpackCodec
from meshcache.errors import ConfigError
from meshcache.options import DEFAULT_URL, OptionArguments, Options

SECRET = "correct horse battery staple"
NAMES = [item.name for item in fields(Options)]
SECONDS = "above 0 and up to a hundred years"


class OwnCodec:
    name = "own"

    def encode(self, value: Any) -> bytes:
        return bytes(value)

    def decode(self, data: bytes) -> Any:
        return data


def test_the_defaults_are_those_that_the_docs_promise() -> None:
    options = Options()
    assert DEFAULT_URL == "redis://localhost:6379/0"
    assert {name: getattr(options, name) for name in NAMES} == {
        "namespace": "meshcache",
        "secret": None,
        "credential_provider": None,
        "codec": "msgpack",
        "default_ttl": None,
        "op_timeout": 0.25,
        "near_cache": "standby",
        "stale_ttl": 60.0,
        "discovery": None,
        "interfaces": None,
        "port": 0,
        "max_entries": 10_000,
        "max_bytes": 100 * 2**20,
        "max_dirty": 100_000,
        "on_recovery": "replay",
        "failure_threshold": 3,
        "fence_ttl": 3600.0,
        "tombstone_ttl": 3600.0,
        "max_skew": 60.0,
        "forget_after": 600.0,
        "amnesia_window": 60.0,
        "warn_outage_after": 300.0,
        "warn_store_bytes": 100 * 2**20,
    }


def test_type_checkers_know_the_same_options() -> None:
    assert list(OptionArguments.__annotations__) == NAMES


def test_every_option_is_explained_where_it_is_defined() -> None:
    source = inspect.getsource(Options)
    for name in NAMES:
        explained = source.split(f"\n    {name}: ")[1].split("\n", 1)[1].lstrip()
        assert explained.startswith('"""'), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", "a"),
        ("namespace", "Gate-way_1.2:v3/eu@prod"),
        ("namespace", "x" * 100),
        ("secret", "12345678"),
        ("secret", b"12345678"),
        ("secret", "éééé"),
        ("codec", "json"),
        ("codec", OwnCodec()),
        ("default_ttl", 60),
        ("default_ttl", 0.001),
        ("default_ttl", math.inf),
        ("default_ttl", timedelta(minutes=5)),
        ("op_timeout", 0.02),
        ("op_timeout", 1),
        ("warn_outage_after", math.inf),
        ("discovery", []),
        ("discovery", ("10.0.0.1:7946",)),
        ("interfaces", ["127.0.0.1"]),
        ("port", 65_535),
        ("max_entries", 1),
        ("on_recovery", "discard"),
    ],
)
def test_a_good_value_is_taken_as_it_is(name: str, value: Any) -> None:
    assert getattr(Options.of({name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *[
            ("namespace", value, "1 to 100 of A-Z a-z 0-9")
            for value in ("", "x" * 101, "a b", "a*", "{a}", "é", "a\n", None, 1)
        ],
        *[
            ("secret", value, "str .* or bytes of 8 or more, or None")
            for value in ("", "1234567", b"1234567", 12345678, ["x"] * 8)
        ],
        ("secret", "\udc80" * 8, "encodable as UTF-8"),
        *[("codec", value, "'msgpack', 'json', 'text', 'bytes'") for value in ("pickle", "", "JSON")],
        *[("codec", value, "name, encode.* and decode") for value in (None, object(), MsgpackCodec, OwnCodec)],
        *[
            ("default_ttl", value, SECONDS)
            for value in (0, -1, math.nan, "60", True, 1e12, 10**400, timedelta(0), timedelta.max)
        ],
        *[
            (name, value, SECONDS)
            for name in (
                "op_timeout",
                "stale_ttl",
                "fence_ttl",
                "tombstone_ttl",
                "max_skew",
                "forget_after",
            )
            for value in (0, -0.1, math.inf, math.nan, 10**400, None, "1", True, timedelta(1))
        ],
        *[
            ("warn_outage_after", value, f"{SECONDS}, or math.inf for never")
            for value in (0, -math.inf, math.nan, None)
        ],
        *[("near_cache", value, "none of 'off', 'standby', 'serve'") for value in ("on", True, None)],
        *[("on_recovery", value, "none of 'replay', 'invalidate', 'discard'") for value in ("", None, ["replay"])],
        *[
            (name, value, "whole number of 1 or more")
            for name in ("max_entries", "max_bytes", "max_dirty", "failure_threshold", "warn_store_bytes")
            for value in (0, -1, 1.0, math.inf, None, "1", True)
        ],
        *[("port", value, "whole number from 0 to 65535") for value in (-1, 65_536, "7946", None, 1.0)],
        *[("discovery", value, r"a list, for example \[Mdns\(\)\]") for value in ("10.0.0.1:7946", b"x", 5, {"a:1"})],
        *[("interfaces", value, r"a list, for example \['127.0.0.1'\]") for value in ("127.0.0.1", b"x", 5)],
        *[
            ("interfaces", value, "at least one IP address or interface; None means")
            for value in ([], [""], [None], [1])
        ],
    ],
)
def test_a_bad_value_is_refused_with_the_option_and_the_fix(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Options.of({name: value})
    assert caught.value.option == name
    assert str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "seconds", [1e-9, 100 * 366 * 86_400, math.nextafter(100 * 366 * 86_400, math.inf), 0, math.inf]
)
def test_a_default_ttl_is_good_if_it_is_good_as_a_ttl(seconds: float) -> None:
    try:
        ttl_to_ms(seconds)
    except ValueError:
        with pytest.raises(ConfigError):
            Options(default_ttl=seconds)
    else:
        assert Options(default_ttl=seconds).default_ttl == seconds


@pytest.mark.parametrize(
    ("wrong", "meant"), [("namespce", "namespace"), ("op_timout", "op_timeout"), ("max_entry", "max_entries")]
)
def test_an_unknown_option_suggests_the_one_that_was_meant(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"^{wrong}: there is no such option; did you mean {meant}\\?"):
        Options.of({wrong: 1})


def test_an_option_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"^zzz: there is no such option$"):
        Options.of({"zzz": 1})


def test_options_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Options().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("secret", [SECRET, SECRET.encode()])
def test_the_secret_is_never_shown(secret: str | bytes) -> None:
    options = Options(secret=secret)
    for shown in (repr(options), str(options), f"{options}"):
        assert SECRET not in shown
        assert "secret" not in shown


@pytest.mark.parametrize("secret", ["seven77", b"seven77", "seven77 \udc80", ["seven77"]])
def test_not_even_a_wrong_secret_is_shown(secret: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Options(secret=secret)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "seven77" not in repr(seen)
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize("name", sorted(CODECS))
def test_a_codec_is_made_by_its_name_and_never_shared(name: Any) -> None:
    options = Options(codec=name)
    assert options.make_codec().name == name
    assert options.make_codec() is not options.make_codec()


def test_a_codec_of_ones_own_is_used_as_it_is() -> None:
    own = OwnCodec()
    assert Options(codec=own).make_codec() is own
    assert isinstance(Options(codec=JsonCodec()).make_codec(), JsonCodec)


# -- from the environment

ENVIRONMENT = {
    "url": ("redis://10.0.0.1:6379/1", "redis://10.0.0.1:6379/1"),
    "namespace": ("gateway", "gateway"),
    "secret": (SECRET, SECRET),
    "codec": ("json", "json"),
    "default_ttl": ("60", 60.0),
    "op_timeout": ("0.1", 0.1),
    "near_cache": ("serve", "serve"),
    "stale_ttl": ("30", 30.0),
    "discovery": ("mdns, 10.0.0.1:7946", ["mdns", "10.0.0.1:7946"]),
    "interfaces": ("eth0,127.0.0.1,", ["eth0", "127.0.0.1"]),
    "port": ("7946", 7946),
    "max_entries": ("500", 500),
    "max_bytes": ("1000000", 1_000_000),
    "max_dirty": ("10", 10),
    "on_recovery": ("invalidate", "invalidate"),
    "failure_threshold": ("2", 2),
    "fence_ttl": ("7200", 7200.0),
    "tombstone_ttl": ("7200", 7200.0),
    "max_skew": ("5", 5.0),
    "forget_after": ("300", 300.0),
    "amnesia_window": ("10", 10.0),
    "warn_outage_after": ("inf", math.inf),
    "warn_store_bytes": ("1", 1),
}


def test_every_option_has_a_variable() -> None:
    assert list(ENVIRONMENT) == ["url", *(name for name in NAMES if name != "credential_provider")]
    assert Options.environment({"MESHCACHE_CREDENTIAL_PROVIDER": "os.getcwd"}) == {}
    environ = {f"MESHCACHE_{name.upper()}": f" {text} " for name, (text, _) in ENVIRONMENT.items()}
    arguments = Options.environment(environ)
    assert arguments == {name: value for name, (_, value) in ENVIRONMENT.items()}
    del arguments["url"]
    Options.of(arguments)  # and each value is a good one


def test_variables_that_are_empty_or_not_ours_say_nothing() -> None:
    assert (
        Options.environment({"MESHCACHE_PORT": "  ", "PORT": "1", "MESHCACHE_UNKNOWN": "1", "meshcache_port": "1"})
        == {}
    )


def test_none_means_no_redis_and_no_discovery() -> None:
    assert Options.environment({"MESHCACHE_URL": "none", "MESHCACHE_DISCOVERY": "none"}) == {
        "url": None,
        "discovery": [],
    }


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("port", "http", "MESHCACHE_PORT must be a whole number"),
        ("max_bytes", "100MB", "MESHCACHE_MAX_BYTES must be a whole number"),
        ("max_entries", "1.5", "MESHCACHE_MAX_ENTRIES must be a whole number"),
        ("default_ttl", "1m", "MESHCACHE_DEFAULT_TTL must be a number"),
        ("op_timeout", "0,25", "MESHCACHE_OP_TIMEOUT must be a number"),
    ],
)
def test_a_variable_of_the_wrong_type_is_named(name: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: {says}$") as caught:
        Options.environment({f"MESHCACHE_{name.upper()}": text})
    assert caught.value.option == name


def test_another_prefix_and_the_process_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHCACHE_NAMESPACE", "from the process")
    assert Options.environment()["namespace"] == "from the process"
    assert Options.environment({"CACHE_PORT": "1"}, prefix="CACHE_") == {"port": 1}
