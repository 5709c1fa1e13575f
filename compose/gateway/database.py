"""The database behind the cache: SQLite, and a delay that stands for the real one's.  Nothing here knows of the cache."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

__all__ = ["Database"]

T = TypeVar("T")

WORDS = {
    "de": "good=guten morning=morgen evening=abend thanks=danke please=bitte the=die order=bestellung invoice=rechnung "
    "question=frage answer=antwort is=ist ready=bereit here=hier new=neu today=heute and=und waits=wartet",
    "es": "good=buena morning=mañana evening=tarde thanks=gracias please=favor the=la order=orden invoice=factura "
    "question=pregunta answer=respuesta is=está ready=lista here=aquí new=nueva today=hoy and=y waits=espera",
    "fr": "good=bon morning=matin evening=soir thanks=merci please=prière the=la order=commande invoice=facture "
    "question=question answer=réponse is=est ready=prête here=ici new=nouvelle today=aujourd'hui and=et waits=attend",
}
"""From English into each language.  All pairs with English are known, in both directions."""

MEMBERS = (
    "ada adam adele agnes alan alonzo barbara bjarne claude dennis donald edsger ellen frances fred grace guido hedy ida "
    "ivan james jean joan john karen katherine ken leslie linus lynn margaret mary niklaus radia robin sophie stephanie "
    "tim tony vint whitfield yukihiro"
)

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS words (source TEXT, target TEXT, word TEXT, translation TEXT)",
    "CREATE INDEX IF NOT EXISTS pairs ON words (source, target)",
    "CREATE TABLE IF NOT EXISTS members (name TEXT PRIMARY KEY)",
)


class Database:
    """Words and members in one file, which several gateways may share.

    Args:
        path: the file; it is made, and filled, if it is not there.
        delay: seconds that every query takes longer.
    """

    def __init__(self, path: str, delay: float) -> None:
        self._path = path
        self._delay = delay
        self._thread = ThreadPoolExecutor(1, "database")

    async def __aenter__(self) -> Self:
        """Open the file.  Gateways that start together fill it one after the other."""
        self._connection = await self._call(
            sqlite3.connect, self._path, timeout=10, isolation_level=None, cached_statements=16
        )
        await self._call(self._fill)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._call(self._connection.close)
        self._thread.shutdown()

    async def words(self, source: str, target: str) -> dict[str, str]:
        """The translation of each word that is known; empty for a pair of languages that is not."""
        return dict(
            await self._rows("SELECT word, translation FROM words WHERE source = ? AND target = ?", source, target)
        )

    async def members(self, prefix: str, limit: int) -> list[str]:
        """The first names, in order, that begin with the prefix."""
        query = "SELECT name FROM members WHERE substr(name, 1, ?) = ? ORDER BY name LIMIT ?"
        return [name for (name,) in await self._rows(query, len(prefix), prefix, limit)]

    async def add_member(self, name: str) -> bool:
        """True if it was not there."""
        return bool(await self._rows("INSERT OR IGNORE INTO members VALUES (?) RETURNING name", name))

    async def remove_member(self, name: str) -> bool:
        """True if it was there."""
        return bool(await self._rows("DELETE FROM members WHERE name = ? RETURNING name", name))

    async def _rows(self, statement: str, *arguments: object) -> list[Any]:
        await asyncio.sleep(self._delay)
        return await self._call(lambda: self._connection.execute(statement, arguments).fetchall())

    async def _call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """In the one thread that SQLite's connection belongs to."""
        work = partial(function, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _fill(self) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            execute(statement)
        if not execute("SELECT EXISTS (SELECT * FROM members)").fetchone()[0]:
            self._connection.executemany("INSERT INTO words VALUES (?, ?, ?, ?)", _dictionary())
            self._connection.executemany("INSERT INTO members VALUES (?)", [(name,) for name in MEMBERS.split()])
        execute("COMMIT")


def _dictionary() -> list[tuple[str, str, str, str]]:
    rows = []
    for language, words in WORDS.items():
        for word, translation in (pair.split("=") for pair in words.split()):
            rows += [("en", language, word, translation), (language, "en", translation, word)]
    return rows
