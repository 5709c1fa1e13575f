"""Checks of the mesh, through a temporary instance: its mode, its near cache, its key, whom it finds and whom it meets."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import anyio.to_thread

from ..discovery.dns import Dns
from ..discovery.mdns import Mdns
from ..discovery.static import Static
from ..errors import RedisCommandError, Unavailable
from ..events import Mode, Peer
from ..interfaces import usable_addresses
from ..mesh.errors import Reason
from ..mesh.settings import Address
from ..near import Near
from .finding import Finding, fail, in_words, ok, skipped, warn
from .instance import Ear, TemporaryInstance
from .patient import Patient
from .server import in_seconds

__all__ = ["clocks", "discovery", "instance", "key", "keys_of_others", "near_cache", "peers", "port"]

_MODE_SECONDS: Final = 3.0
_KEY_SECONDS: Final = 2.0
_NEAR_SECONDS: Final = 2.0
_NEAR_TRIES: Final = 5
_KEY_MS: Final = 10_000
_CLOCKS_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 1.0
_SKEW_SECONDS: Final = 1.0
_SHORT_SECRET: Final = 16
_NEAR_IS_OFF: Final = "the near cache is off: "
_FIREWALL: Final = (
    "let UDP pass between the instances, both ways (fix the port with port= and name it to the firewall), and see that they run, "
    "listen there, and have the same secret and namespace"
)


async def instance(patient: Patient) -> Finding:
    """Whether a cache with these options comes up, in the mode that it should."""
    temporary = patient.temporary
    if not patient.takes_writes:
        return ok("a temporary instance is up, in mode memory, as it must be without Redis")
    if await temporary.reach(Mode.REDIS, _MODE_SECONDS):
        return ok(f"a temporary instance is up, in mode {temporary.runtime.mode}")
    said = temporary.warned("") or "and does not say why"
    return fail(f"a temporary instance stays in mode {temporary.runtime.mode}: {said}", "see the checks of Redis")


async def near_cache(patient: Patient) -> Finding:
    """Whether Redis tells of changes, so that copies can be kept: asked by changing a key behind the instance's back."""
    temporary, link = patient.temporary, patient.link
    if patient.options.near_cache == "off":
        return skipped("near_cache is off")
    if link is None or temporary.runtime.mode is not Mode.REDIS:
        return skipped("the instance does not reach Redis")
    near = temporary.runtime.near
    await temporary.until(lambda: near.is_open or bool(temporary.warned(_NEAR_IS_OFF)), _NEAR_SECONDS)
    if not near.is_open:
        return warn(
            f"changes are not told: {temporary.warned(_NEAR_IS_OFF) or 'no tracked connection'}; outages begin cold",
            "permit HELLO and CLIENT TRACKING (+@connection); Redis 6 or later; no proxy that lacks them; or near_cache=off",
        )
    try:
        heard = await _change_is_told(patient)
    except (Unavailable, RedisCommandError) as error:
        return warn(f"changes are not told: {error}", "see the checks of Redis")
    if heard:
        return ok("a change by somebody else was told")
    return warn(
        "tracking is on, but a change by somebody else was not told: copies are as old as stale_ttl allows",
        "no proxy may stand between, that spreads connections over servers; or near_cache=off",
    )


async def _change_is_told(patient: Patient) -> bool:
    """Read a key, so that there is a copy, change it over another connection, and see the copy go.

    There may be no copy at first: what Redis tells of the key's own making may come after the read.
    """
    temporary, link, names = patient.temporary, patient.server, patient.names
    near, front = temporary.runtime.near, temporary.runtime.front
    assert front is not None
    for _ in range(_NEAR_TRIES):
        name = f"meshcache-doctor:{secrets.token_hex(8)}"
        await link.execute("SET", names.key(name), b"1", "PX", _KEY_MS)
        await front.get(name)
        hears = _grows(near)
        await link.execute("SET", names.key(name), b"2", "PX", _KEY_MS)
        heard = await temporary.until(hears, _NEAR_SECONDS / _NEAR_TRIES)
        await link.execute("UNLINK", names.key(name))
        if heard:
            return True
    return False


def _grows(near: Near) -> Callable[[], bool]:
    told = near.invalidated
    return lambda: near.invalidated > told


async def key(patient: Patient) -> Finding:
    """Whether there is a key to seal datagrams with."""
    temporary, secret = patient.temporary, patient.options.secret
    if not await temporary.has_key(_KEY_SECONDS):
        if patient.takes_writes:
            said = temporary.warned("Redis refuses what the mesh needs: ") or "it was not there in time"
            return fail(
                f"no key: Redis should hold it, but {said}",
                f"permit ~{{{patient.options.namespace}* to this user; or set MESHCACHE_SECRET",
            )
        return fail(
            "no key: no secret is set, and Redis, which would hold one, cannot be asked; the instance stays alone",
            "set MESHCACHE_SECRET, the same everywhere, if instances must find each other while Redis is away",
        )
    if secret is None:
        return ok("kept in Redis: whoever may read the cache may join")
    if len(secret) < _SHORT_SECRET:
        return warn(f"made of a secret of less than {_SHORT_SECRET} characters", "use 16 random characters or more")
    return ok("made of the secret")


async def discovery(patient: Patient) -> Finding:
    """Listens for a while, and says what each source found."""
    temporary = patient.temporary
    await _listen(patient, temporary)
    if not temporary.ears:
        return ok("nobody is looked for (discovery=[]), and who finds this instance is answered")
    told = "; ".join(f"{ear.name}: {_found_by(ear)}" for ear in temporary.ears)
    names = [record.getMessage() for record in temporary.warnings if record.module == "names"]
    if names:
        return fail(
            f"{told}; {in_words(names, 3)}", "mend the name, or the name service of this host (/etc/resolv.conf)"
        )
    broken = [ear for ear in temporary.ears if ear.error is not None]
    if broken:
        judge = fail if len(broken) == len(temporary.ears) else warn
        return judge(told, "see the checks above: interfaces, multicast, the port of mDNS")
    return ok(told)


def _found_by(ear: Ear) -> str:
    if ear.error is not None:
        return f"does not work now ({ear.error})"
    return f"{len(ear.found)} {'address' if len(ear.found) == 1 else 'addresses'}" if ear.found else "nobody"


async def _listen(patient: Patient, temporary: TemporaryInstance) -> None:
    """For as long as it is said, or until all are there that are expected, and a little longer."""

    def complete() -> bool:
        return patient.peers_expected is not None and len(temporary.runtime.peers) >= patient.peers_expected

    if await temporary.until(complete, patient.wait):
        await temporary.until(lambda: False, min(patient.wait, _SETTLE_SECONDS))


async def peers(patient: Patient) -> Finding:
    """Whether datagrams come and go: a peer is who has answered a challenge, and whose challenge was answered."""
    temporary = patient.temporary
    met, mute = temporary.runtime.peers, _mute(temporary)
    shown = f"{len(met)} {'peer' if len(met) == 1 else 'peers'}"
    if met:
        shown += f": {in_words(f'{_at(peer.host, peer.port)} ({peer.mode})' for peer in met)}"
    if mute:
        shown += f"; no answer from {in_words(_at(*address) for address in mute)}"
    if not met and _one_way(temporary):
        shown += "; datagrams come in, but the answers to them do not arrive"
    expected = patient.peers_expected
    if expected is not None and len(met) < expected:
        return fail(f"{shown}; {expected} are expected", _FIREWALL)
    if mute:
        return warn(shown, _FIREWALL) if met else fail(shown, _FIREWALL)
    return _judge_modes(patient, met, shown) if met else _judge_loneliness(patient, shown)


def _judge_loneliness(patient: Patient, shown: str) -> Finding:
    if not patient.temporary.ears:
        return ok(f"{shown}, and nobody was looked for")
    return warn(
        f"{shown}: nobody was found within {patient.wait:g} s",
        "fine if no other instance runs; otherwise see discovery, the namespace, and --wait",
    )


def _judge_modes(patient: Patient, met: list[Peer], shown: str) -> Finding:
    without = [peer for peer in met if peer.mode is not Mode.REDIS]
    if without and patient.takes_writes:
        return warn(
            f"{shown}; not in mode redis, though Redis answers here: {in_words(_at(peer.host, peer.port) for peer in without)}",
            "run the doctor there",
        )
    return ok(shown)


def _mute(temporary: TemporaryInstance) -> list[Address]:
    """Addresses that were greeted in vain.

    mDNS tells every address of an instance; it is enough that one of them answers, which shows in the port.
    """
    node = temporary.runtime.mesh.node
    if node is None:
        return []
    ports = {peer.port for peer in node.peers}
    named = {address for ear in temporary.ears if not isinstance(ear.source, Mdns) for address in ear.found}
    return sorted(address for address in node.silent if address in named or address[1] not in ports)


def _one_way(temporary: TemporaryInstance) -> bool:
    """Somebody with our key speaks to us, but never hears what we answer."""
    node = temporary.runtime.mesh.node
    if node is None:
        return False
    counters = node.counters
    return counters.datagrams_in > counters.dropped[Reason.OWN] + counters.dropped[Reason.UNKNOWN_KEY]


async def port(patient: Patient) -> Finding:
    """Whether the UDP port is free, if one is fixed."""
    wanted, temporary = patient.options.port, patient.temporary
    if not wanted:
        if any(isinstance(source, Static | Dns) for source in patient.sources):
            return warn(
                "any free one, though others are named by address and port here",
                "fix it (port=7946, the same as in those addresses), so that others can name this instance too",
            )
        return ok("any free one")
    if not temporary.port_taken:
        return ok(f"UDP port {wanted} is free")
    own = {item.ip for item in await anyio.to_thread.run_sync(usable_addresses, None)} | {"127.0.0.1", "::1"}
    if any(peer.port == wanted and peer.host in own for peer in temporary.runtime.peers):
        return ok(f"UDP port {wanted} is that of an instance which runs here already")
    return warn(
        f"UDP port {wanted} is taken, and no instance of this mesh was met there; another one was used for these checks",
        f"if no instance is meant to run here now, see who has it: ss -ulpn sport = :{wanted}",
    )


async def keys_of_others(patient: Patient) -> Finding:
    """Whether somebody speaks with another key: another secret, most often."""
    temporary = patient.temporary
    foreign = sorted(temporary.runtime.foreign)
    if foreign:
        return fail(
            f"another key is used at {in_words(_at(*address) for address in foreign)}",
            "make secret= (MESHCACHE_SECRET) and the namespace the same everywhere; without a secret: the same Redis and database",
        )
    if temporary.runtime.peers:
        return ok("everybody who was heard has the same key")
    return skipped("nobody was heard")


async def clocks(patient: Patient) -> Finding:
    """Whether the peers' clocks agree with this host's."""
    temporary = patient.temporary
    if not temporary.runtime.peers:
        return skipped("there is no peer to ask")
    ahead = await temporary.ask_clocks(_CLOCKS_SECONDS)
    where = {peer.node_id: _at(peer.host, peer.port) for peer in temporary.runtime.peers}
    told = {where[node_id]: seconds for node_id, seconds in ahead.items() if node_id in where}
    if not told:
        return skipped("no peer tells its clock: they are of an older version")
    wrong = {at: seconds for at, seconds in told.items() if abs(seconds) > _SKEW_SECONDS}
    advice = "set the clocks of all hosts by NTP: of two writes in an outage the newer one by the clock wins"
    if wrong:
        shown = in_words(f"{at} is {in_seconds(seconds)} this host" for at, seconds in wrong.items())
        limit = patient.options.max_skew
        if max(map(abs, wrong.values())) > limit:
            return fail(f"{shown}; writes that are more than {limit:g} s ahead are refused (max_skew)", advice)
        return warn(shown, advice)
    return ok(f"{len(told)} asked, at most {max(map(abs, told.values())):.3f} s apart from this host")


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
