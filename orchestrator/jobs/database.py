"""The job database: opened, and asked again while it is away for a moment."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import event, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from acestep_rpc.errors import StageUnavailable
from acestep_rpc.telemetry import log
from orchestrator.jobs.schema import VERSION, metadata, versions

T = TypeVar("T")

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_BUSY_SECONDS = 5  # how long SQLite waits for another writer
_RETRY_SECONDS = 0.2
_CREATION_LOCK = 0x61636573  # PostgreSQL: servers that start together create the tables one after another


class DatabaseUnavailable(StageUnavailable):
    """The job database does not answer."""


class Database:
    """Runs transactions; one that meets a database that restarts is run again.

    Args:
        engine: From `open_database`.
        patience_seconds: How long a transaction is tried.
    """

    def __init__(self, engine: AsyncEngine, patience_seconds: float) -> None:
        self._engine = engine
        self._patience_seconds = patience_seconds

    async def run(self, transaction: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run a transaction and commit it. A cancellation waits for its end, so that no connection is left in the middle of one.

        Args:
            transaction: May run more than once, after a commit of unknown outcome too. Where it writes, its first statement does: SQLite
                then has the lock before anything is read.
        Raises:
            DatabaseUnavailable: It stayed away.
        """
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                return await _to_its_end(self._once(transaction))
            except (OSError, DBAPIError) as error:
                if not _is_passing(error):
                    raise
                log("database_away", error=type(error).__name__)
                if time.monotonic() + _RETRY_SECONDS > deadline:
                    raise DatabaseUnavailable("the job database does not answer") from error
            await asyncio.sleep(_RETRY_SECONDS)

    async def _once(self, transaction: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._engine.begin() as connection:
            return await transaction(connection)

    async def close(self) -> None:
        """Let go of all connections."""
        await self._engine.dispose()


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _is_passing(error: Exception) -> bool:
    """Whether the database may answer the next time."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return True  # nobody listens, or not yet


def database_url(address: str) -> URL:
    """The URL with the driver that is used.

    Args:
        address: As "postgresql://user:password@host/database" or "sqlite:////var/lib/acestep/jobs.sqlite".
    Raises:
        ValueError: Another database, or no URL.
    """
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise ValueError("not a URL of a database") from error
    if url.drivername not in _DRIVERS:
        raise ValueError(f"the database must be one of {', '.join(_DRIVERS)}, not {url.drivername}")
    return url.set(drivername=_DRIVERS[url.drivername])


async def open_database(address: str, patience_seconds: float = 10.0) -> Database:
    """Connect, and create the tables where they are not there yet.

    Args:
        address: See `database_url`.
        patience_seconds: See Database.
    Raises:
        ValueError: The tables are those of another version, or the address is none.
        DatabaseUnavailable: It does not answer.
    """
    url = database_url(address)
    sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS}} if sqlite else {"pool_pre_ping": True}
    engine = create_async_engine(url, hide_parameters=True, **options)
    if sqlite:
        event.listen(engine.sync_engine, "connect", _configure_sqlite)
    database = Database(engine, patience_seconds)

    async def create(connection: AsyncConnection) -> int:
        lock = "begin immediate" if sqlite else f"select pg_advisory_xact_lock({_CREATION_LOCK})"
        await connection.execute(text(lock))
        await connection.run_sync(metadata.create_all)
        found = (await connection.execute(select(versions.c.version))).scalars().first()
        if found is None:
            await connection.execute(insert(versions).values(version=VERSION))
        return VERSION if found is None else found

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        if (found := await database.run(create)) != VERSION:
            raise ValueError(f"the job database has tables of version {found}, this server those of version {VERSION}")
        stack.pop_all()
    return database


def _configure_sqlite(connection: Any, record: Any) -> None:
    try:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:  # as while another server changes the mode: nobody else closes it
        connection.close()
        raise
