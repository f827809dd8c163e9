"""Job databases, SQLite and PostgreSQL, as two servers share them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.jobs.database import Database, open_database
from orchestrator.jobs.store import JobStore
from tests.postgresql import PostgreSQL, running_postgresql

LEASE_SECONDS = 0.5


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
async def databases(database_address: str) -> AsyncIterator[list[Database]]:
    """One and the same, opened by two servers."""
    opened = [await open_database(database_address) for _ in range(2)]
    yield opened
    for database in opened:
        await database.close()


@pytest.fixture
def database(databases: list[Database]) -> Database:
    return databases[0]


@pytest.fixture
def stores(databases: list[Database]) -> list[JobStore]:
    return [JobStore(database, f"server {index}", LEASE_SECONDS) for index, database in enumerate(databases)]


@pytest.fixture
def store(stores: list[JobStore]) -> JobStore:
    return stores[0]
