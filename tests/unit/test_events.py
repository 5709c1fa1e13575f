"""The records by which a cache tells about itself."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

import meshcache
from meshcache import events
from meshcache.events import Event, Mode, ModeChanged, Peer, PeerJoined, PeerLeft, PeerModeChanged

PEER = Peer("00000000deadbeef", "127.0.0.1", 7946, Mode.MEMORY)
RECORDS = [
    PEER,
    ModeChanged(Mode.REDIS, Mode.MEMORY, "reset", 1.5),
    PeerJoined(PEER),
    PeerLeft(PEER, "bye"),
    PeerModeChanged(PEER, Mode.REDIS),
]


def test_a_mode_is_its_word() -> None:
    assert {mode.name: str(mode) for mode in Mode} == {
        "REDIS": "redis",
        "MEMORY": "memory",
        "RECOVERING": "recovering",
    }
    assert Mode.REDIS == "redis"
    assert f"{Mode.MEMORY}" == "memory"
    assert Mode("recovering") is Mode.RECOVERING


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_cannot_be_changed_and_can_be_compared_and_kept_in_a_set(record: object) -> None:
    name = dataclasses.fields(record)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, None)
    assert record in {record}
    assert dataclasses.replace(record) == record  # type: ignore[type-var]


def test_an_event_is_any_record_but_a_peer() -> None:
    assert set(get_args(Event)) == {type(record) for record in RECORDS[1:]}


def test_what_a_user_matches_on_is_exported() -> None:
    for name in set(events.__all__) - {"Event"}:
        assert getattr(meshcache, name) is getattr(events, name)
