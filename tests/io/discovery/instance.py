"""One instance's discovery and socket as a program, for a test that puts it on a host of its own.

``python -m tests.io.discovery.instance '{"namespace": "x", "interfaces": null}'`` prints a line for what happens:
``ready PORT``, ``found IP PORT``, ``heard IP TEXT``, ``failed TYPE ERRNO``.  It greets each candidate it finds.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
from collections.abc import Iterable

import anyio

from meshcache.discovery import Announcement, Mdns
from meshcache.udp import Address, UdpSocket


async def main(namespace: str, interfaces: list[str] | None, mdns: list[str] | None = None) -> None:
    near = UdpSocket.open(interfaces, 0)
    announcement = Announcement(secrets.randbits(64), namespace, near.addresses, near.port, everywhere=near.everywhere)

    def found(host: str, port: int) -> None:
        print("found", host, port, flush=True)
        near.send([(b"greetings", [(host, port)])])

    def hear(datagrams: Iterable[tuple[bytes, Address]]) -> None:
        for data, (host, _) in datagrams:
            print("heard", host, data.decode(), flush=True)

    print("ready", near.port, flush=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(near.listen, hear)
        while True:
            try:
                await Mdns(mdns).run(announcement, found)
            except Exception as error:
                print("failed", type(error).__name__, getattr(error, "errno", None), flush=True)
            await anyio.sleep(0.5)


if __name__ == "__main__":
    logging.basicConfig()
    anyio.run(lambda: main(**json.loads(sys.argv[1])))
