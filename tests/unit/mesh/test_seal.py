"""Only who holds the key may speak, and nothing said once can be said again by another."""

from __future__ import annotations

from random import Random

import pytest

from meshcache.mesh.errors import BadDatagram, Reason
from meshcache.mesh.seal import (
    MAX_BODY_BYTES,
    MAX_DATAGRAM_BYTES,
    OVERHEAD_BYTES,
    MeshKey,
    Opener,
    Openers,
    ReplayWindow,
    Sealer,
    read_header,
)

A = MeshKey.from_bytes(b"a" * 32, "gateway")
B = MeshKey.from_bytes(b"b" * 32, "gateway")


def reason_of(datagram: bytes, *keys: MeshKey) -> Reason:
    openers = Openers(keys, 4)
    with pytest.raises(BadDatagram) as caught:
        openers.open(read_header(datagram), datagram)
    return caught.value.reason


def test_what_is_sealed_opens() -> None:
    sealer = Sealer(7, [A])
    for body in (b"", b"x", b"y" * MAX_BODY_BYTES):
        datagram = sealer.seal(body)
        assert len(datagram) == len(body) + OVERHEAD_BYTES <= MAX_DATAGRAM_BYTES
        header = read_header(datagram)
        assert (header.node_id, header.key_id) == (7, A.key_id)
        assert Openers([A], 4).open(header, datagram) == body


def test_body_is_not_readable_and_never_sealed_the_same_way_twice() -> None:
    sealer = Sealer(7, [A])
    first, second = sealer.seal(b"secret" * 10), sealer.seal(b"secret" * 10)
    assert b"secret" not in first
    assert first[-70:] != second[-70:]
    assert [read_header(first).counter, read_header(second).counter] == [1, 2]


def test_every_flipped_bit_is_noticed() -> None:
    datagram = Sealer(7, [A]).seal(b"body")
    for position in range(len(datagram)):
        for bit in range(8):
            flipped = bytearray(datagram)
            flipped[position] ^= 1 << bit
            assert reason_of(bytes(flipped), A)


def test_every_truncation_and_extension_is_noticed() -> None:
    datagram = Sealer(7, [A]).seal(b"body" * 20)
    for length in range(len(datagram)):
        assert reason_of(datagram[:length], A) in {Reason.SIZE, Reason.FORGED}
    assert reason_of(datagram + b"x", A) is Reason.FORGED
    assert reason_of(datagram + b"x" * 2000, A) is Reason.SIZE


def test_reasons() -> None:
    datagram = Sealer(7, [A]).seal(b"body")
    assert reason_of(b"xx" + datagram[2:], A) is Reason.FOREIGN
    assert reason_of(datagram[:2] + b"\x02" + datagram[3:], A) is Reason.VERSION
    assert reason_of(datagram, B) is Reason.UNKNOWN_KEY
    assert reason_of(datagram) is Reason.UNKNOWN_KEY
    assert reason_of(datagram[:-1] + bytes([datagram[-1] ^ 1]), A) is Reason.FORGED


def test_one_sender_cannot_speak_for_another() -> None:
    datagram = Sealer(7, [A]).seal(b"body")
    header = read_header(datagram)
    with pytest.raises(BadDatagram):
        Opener(8, {A.key_id: A}).open(header._replace(node_id=8), datagram)


def test_two_keys_are_live_while_the_key_is_changed() -> None:
    sealer, openers = Sealer(7, [A]), Openers([A], 4)
    openers.admit(7)
    old = sealer.seal(b"old")
    openers.set_keys([A, B])
    sealer.set_keys([B, A])
    new = sealer.seal(b"new")
    assert read_header(new).counter == read_header(old).counter + 1
    assert openers.open(read_header(old), old) == b"old"
    assert openers.open(read_header(new), new) == b"new"
    openers.set_keys([B])
    assert openers.open(read_header(new), new) == b"new"
    with pytest.raises(BadDatagram, match="unknown_key"):
        openers.open(read_header(old), old)


def test_keys_depend_on_secret_and_namespace_only() -> None:
    one = MeshKey.from_secret("correct horse", "gateway")
    same = MeshKey.from_secret(b"correct horse", "gateway")
    assert Openers([same], 1).open(read_header(d := Sealer(1, [one]).seal(b"hi")), d) == b"hi"
    assert len({one.key_id, MeshKey.from_secret("correct horse", "other").key_id, A.key_id, B.key_id}) == 4
    assert MeshKey.from_bytes(b"a" * 32, "other").key_id != A.key_id


def test_key_is_checked_and_not_shown() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        MeshKey.from_bytes(b"a" * 31, "gateway")
    assert repr(A) == f"MeshKey(key_id='{A.key_id.hex()}')"


def test_strangers_are_bounded_and_never_push_out_a_peer() -> None:
    openers = Openers([A], 4)
    peer = Sealer(1, [A])
    openers.admit(1)
    for node_id in range(2, 200):
        datagram = Sealer(node_id, [A]).seal(b"x")
        openers.open(read_header(datagram), datagram)
        assert len(openers) <= 5
    datagram = peer.seal(b"still here")
    assert openers.open(read_header(datagram), datagram) == b"still here"
    openers.dismiss(1)
    assert len(openers) == 4


def test_window_takes_each_counter_once_in_any_order() -> None:
    random = Random(1)
    window = ReplayWindow(100)
    counters = list(range(101, 3000))
    for at in range(0, len(counters), 500):  # reordered within half a window
        block = counters[at : at + 500]
        random.shuffle(block)
        for counter in block:
            assert window.is_fresh(counter)
            window.mark(counter)
            assert not window.is_fresh(counter)
    assert not any(window.is_fresh(counter) for counter in range(3000))
    assert window.is_fresh(3000)


def test_window_refuses_what_is_at_or_below_its_floor() -> None:
    window = ReplayWindow(5000)
    assert not any(window.is_fresh(counter) for counter in range(5001))
    assert window.mark(5002)
    assert window.is_fresh(5001)
    assert not window.mark(5001), "overtaken"
    assert not any(window.is_fresh(counter) for counter in range(5003))


def test_window_slides() -> None:
    window = ReplayWindow(0)
    window.mark(2000)
    assert not window.is_fresh(2000 - ReplayWindow.WIDTH)
    assert window.is_fresh(2000 - ReplayWindow.WIDTH + 1)
    window.mark(2**64 - 1)
    assert not window.is_fresh(2000)
    assert window.is_fresh(2**64 - 2)
