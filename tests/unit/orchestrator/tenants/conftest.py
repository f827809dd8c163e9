from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.jobs.database import Database, open_database
from tests.postgresql import PostgreSQL, running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def databases(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Database]]:
    """One and the same, opened by two servers."""
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path}/jobs.sqlite"
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        address = server.database()
    opened = [await open_database(address) for _ in range(2)]
    yield opened
    for database in opened:
        await database.close()
