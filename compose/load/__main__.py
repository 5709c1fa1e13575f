"""``python -m load URL...``: the load itself, at a steady pace, and its tables on standard output.

A request is sent when it is due, however many others are still under way: a gateway that stalls is not spared, and the
time that its requests wait is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from time import perf_counter, time

from .client import Gateway, RequestError
from .figures import SECOND_HEAD, Figures, phase_table, second_line
from .plan import Ask, rounds, warm_up

PATIENCE = 60.0
"""In seconds: how long gateways may take to answer at all."""


def main() -> None:
    """Run until the time is over, or SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m load", description="A steady load on gateways that share a cache.")
    parser.add_argument("gateways", nargs="+", metavar="URL", help="http://host:port")
    parser.add_argument(
        "--rate", type=float, default=240.0, help="requests in a second, of all gateways together (240)"
    )
    parser.add_argument("--seconds", type=int, help="how long (until interrupted)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: each second, then all phases")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(Load(options).run()))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, if it is there: what the load itself takes should not show."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class Load:
    """The load on some gateways."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._gateways = [Gateway(url) for url in options.gateways]
        self._figures = Figures()
        self._answers: dict[tuple[str, bytes], bytes] = {}
        self._stopped = False

    async def run(self) -> int:
        """Wait for the gateways, warm them up, ask on and on; 1 if any request failed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        async with AsyncExitStack() as stack:
            for gateway in self._gateways:
                await stack.enter_async_context(gateway)
            await self._wait_for_gateways()
            for ask in warm_up(len(self._gateways)):
                await self._warm(ask)
            await self._ask_on()
        self._tell_phases()
        return 1 if any(phase.failed for phase in self._figures.phases) else 0

    def _stop(self) -> None:
        self._stopped = True

    async def _wait_for_gateways(self) -> None:
        """Until all answer, from Redis, and know each other; for so long, and then as they are."""
        deadline = perf_counter() + PATIENCE
        while not self._stopped and perf_counter() < deadline:
            if all([await self._is_ready(gateway) for gateway in self._gateways]):
                return
            await asyncio.sleep(0.1)

    async def _is_ready(self, gateway: Gateway) -> bool:
        try:
            reply = await gateway.ask("GET", "/healthz")
        except RequestError:
            return False
        health = json.loads(reply.body)
        return bool(health["mode"] == "redis" and health["peers"] == len(self._gateways) - 1)

    async def _warm(self, ask: Ask) -> None:
        if not self._stopped:
            reply = await self._gateways[ask.gateway].ask(ask.method, ask.path, ask.body)
            self._answers[ask.path, ask.body] = reply.body

    async def _ask_on(self) -> None:
        options = self._options
        self._tell_head()
        requests = rounds(len(self._gateways), Random(1), secrets.token_hex(4))  # noqa: S311 not for secrets
        start = perf_counter()
        sent = seconds = 0
        async with asyncio.TaskGroup() as tasks:
            while not self._stopped and seconds != options.seconds:
                elapsed = perf_counter() - start
                while sent <= elapsed * options.rate:
                    tasks.create_task(self._ask(next(requests)))
                    sent += 1
                if elapsed >= seconds + 1:
                    seconds += 1
                    self._tell_second()
                await asyncio.sleep(max(0.0, start + sent / options.rate - perf_counter()))

    async def _ask(self, ask: Ask) -> None:
        start = perf_counter()
        try:
            reply = await self._gateways[ask.gateway].ask(ask.method, ask.path, ask.body)
        except RequestError as error:
            self._fail(str(error))
            return
        seconds = perf_counter() - start
        if reply.status != 200 or reply.body != self._answers.get((ask.path, ask.body), reply.body):
            self._fail(f"{ask.method} {ask.path}: {reply.status} {reply.body!r}")
            return
        self._figures.answered(reply.headers["x-cache-mode"], hit=reply.headers["x-cache"] == "HIT", seconds=seconds)

    def _fail(self, why: str) -> None:
        self._figures.failed()
        tell(json.dumps({"failure": why}) if self._options.json else f"failed: {why}")

    def _tell_head(self) -> None:
        if not self._options.json:
            tell(SECOND_HEAD)

    def _tell_second(self) -> None:
        second = {"time": round(time(), 3), **self._figures.end_second()}
        tell(json.dumps(second) if self._options.json else second_line(second))

    def _tell_phases(self) -> None:
        phases = self._figures.phases
        if self._options.json:
            tell(json.dumps({"phases": [phase.as_json() for phase in phases]}))
        else:
            tell("\n" + phase_table(phases))


def tell(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
