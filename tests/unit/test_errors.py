"""The errors: the tree that the module draws is the tree that there is."""

from __future__ import annotations

import copy
import pickle

import pytest

from meshcache import errors
from meshcache.errors import (
    ClosedError,
    CodecError,
    ConfigError,
    MeshCacheError,
    RedisCommandError,
    Unavailable,
)

PUBLIC = [ConfigError, CodecError, RedisCommandError, ClosedError]


def test_the_tree_is_as_drawn() -> None:
    drawn = [line.split("──")[1].split()[:2] for line in (errors.__doc__ or "").splitlines() if "──" in line]
    assert [name for name, *_ in drawn] == [error.__name__ for error in (MeshCacheError, *PUBLIC)]
    for error in PUBLIC:
        also = [base.__name__ for base in error.__bases__ if base is not MeshCacheError]
        parent = f"({also[0]})" if also else None
        assert (parent is None) or [error.__name__, parent] in drawn
        assert error.__bases__[0] is MeshCacheError
    assert MeshCacheError.__bases__ == (Exception,)


def test_everything_is_exported() -> None:
    assert set(errors.__all__) == {error.__name__ for error in (MeshCacheError, *PUBLIC, Unavailable)}


@pytest.mark.parametrize("error", PUBLIC)
def test_one_clause_catches_all(error: type[Exception]) -> None:
    assert issubclass(error, MeshCacheError)


def test_an_outage_is_no_error_of_the_public_tree() -> None:
    assert not issubclass(Unavailable, MeshCacheError)


def test_whoever_catches_the_builtin_catches_ours() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ClosedError, RuntimeError)


def test_a_config_error_names_its_option() -> None:
    error = ConfigError("op_timeout", "it must be above 0")
    assert error.option == "op_timeout"
    assert str(error) == "op_timeout: it must be above 0"


def test_an_outage_tells_its_cause_and_whether_it_was_a_timeout() -> None:
    assert str(Unavailable("refused")) == Unavailable("refused").cause == "refused"
    assert not Unavailable("refused").timed_out
    assert Unavailable("slow", timed_out=True).timed_out


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("port", "wrong"),
        CodecError("x"),
        RedisCommandError("x"),
        ClosedError("x"),
        Unavailable("x", timed_out=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: Exception) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
