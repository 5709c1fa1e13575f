"""A DNS server for tests, over UDP and TCP: it knows the records it is told, cuts what is too long, and can fall silent.

As a program, ``python -m tests.io.discovery.name_server 127.0.0.1``, it listens on port 53, prints ``ready``, and takes the
records of the zone as one line of JSON at a time on standard input.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = Mapping[str, Mapping[str, Sequence[str]]]
"""Name to type to records as a zone file has them: ``{"gw.test.": {"A": ["10.0.0.1"]}}``."""

_UDP_BYTES = 512


class NameServer:
    """One server on one address.

    Attributes:
        zone: what it knows; may be replaced at any time.
        silent: takes questions and answers none.
        told_along: send the addresses of a service's hosts with the answer.
        over_tcp: how many questions came over TCP.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.zone: Zone = {}
        self.silent = False
        self.told_along = True
        self.over_tcp = 0
        self._ending = False
        self._udp, self._tcp = _bound(host, port)
        self.port: int = self._udp.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve_udp), threading.Thread(target=self._serve_tcp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for served in (self._udp, self._tcp):
            with contextlib.suppress(OSError):  # wakes the thread, though UDP is not connected
                served.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while True:
            try:
                data, sender = self._udp.recvfrom(4096)
                if not data:
                    return
                answer = self._answer(data)
                if answer is not None and len(answer) > _UDP_BYTES:
                    cut = dns.message.make_response(dns.message.from_wire(data))
                    cut.flags |= dns.flags.TC
                    answer = cut.to_wire()
                if answer is not None:
                    self._udp.sendto(answer, sender)
            except OSError:  # shut down, or whoever asked has gone
                if self._ending:
                    return

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as questions, contextlib.suppress(OSError):
                connection.settimeout(5)
                data = questions.read(int.from_bytes(questions.read(2), "big"))
                answer = self._answer(data) if data else None  # whoever asked may have gone
                if answer is not None:
                    self.over_tcp += 1
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, data: bytes) -> bytes | None:
        if self.silent:
            return None
        query = dns.message.from_wire(data)
        question = query.question[0]
        response = dns.message.make_response(query)
        name = question.name.to_text()
        if name not in self.zone:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            self._add(response.answer, name, dns.rdatatype.to_text(question.rdtype))
        if self.told_along:
            targets = [record.target.to_text() for rrset in response.answer for record in rrset if rrset.rdtype == 33]
            for target in targets:
                for kind in ("A", "AAAA"):
                    self._add(response.additional, target, kind)
        return response.to_wire()

    def _add(self, section: list[dns.rrset.RRset], name: str, kind: str) -> None:
        records = self.zone.get(name, {}).get(kind)
        if records:
            section.append(dns.rrset.from_text_list(name, 0, "IN", kind, records))


def _bound(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on the same port."""
    for _ in range(100):
        tcp = socket.create_server((host, port))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind((host, tcp.getsockname()[1]))
        except OSError:  # somebody else's
            udp.close()
            tcp.close()
        else:
            return udp, tcp
    raise OSError(f"no port of {host} is free for both UDP and TCP")


def main(host: str) -> None:
    with NameServer(host, 53) as server:
        print("ready", flush=True)
        for line in sys.stdin:
            server.zone = json.loads(line)
            print("taken", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
