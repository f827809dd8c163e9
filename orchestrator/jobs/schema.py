"""Tables of the job database, for SQLite and PostgreSQL. The database's clock is the one that counts."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

VERSION = 3
"""Of the tables. Another one in the database stops the start."""

metadata = MetaData()

versions = Table("job_schema", metadata, Column("version", Integer, primary_key=True))

jobs = Table(
    "jobs",
    metadata,
    Column("tenant", String(128), primary_key=True),  # whose it is; empty where callers do not say who they are
    Column("id", String(128), primary_key=True),  # the request id, the tenant's own choice
    Column("body_sha256", String(64), nullable=False),
    Column("request", LargeBinary, nullable=False),  # GenerateRequest with nothing left to draw
    Column("priority", Integer, nullable=False),  # a music_pb2.Priority, never unspecified
    Column("cost_seconds", Double, nullable=False),  # predicted device time
    Column("source_id", String(128)),  # the tenant's job whose song it starts from, if it does
    Column("audio_seconds", Double, nullable=False),  # of all its songs, as charged
    Column("webhook_url", String(2048)),
    Column("webhook_secret", String(128)),
    Column("state", Integer, nullable=False),  # a music_pb2.JobState
    Column("attempt", Integer, nullable=False),  # counts starts; what an attempt writes counts only while it is the last
    Column("failed_attempts", Integer, nullable=False),  # of them, those whose server vanished or whose stages failed
    Column("lease_owner", String(64)),
    Column("lease_expires", Double),
    Column("not_before", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("last_sequence", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),  # of its songs
    Column("result", LargeBinary),  # GenerateResult
    Column("error", LargeBinary),  # google.rpc.Status
    Index("jobs_by_state", "state", "not_before", "created"),
    Index("jobs_by_age", "created", "id"),
    Index("jobs_of_tenant", "tenant", "created", "id"),
)

events = Table(
    "job_events",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("job_id", String(128), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("event", LargeBinary, nullable=False),  # GenerateEvent; of an audio chunk without its data
    Column("audio_bytes", Integer, nullable=False),  # size of the data that was left out
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
)

webhooks = Table(
    "job_webhooks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("job_id", String(128), nullable=False),  # outlives its job
    Column("url", String(2048), nullable=False),
    Column("secret", String(128), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("next_attempt", Double, nullable=False),
    Index("job_webhooks_due", "next_attempt"),
)


usage = Table(
    "tenant_usage",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("next_call", Double, nullable=False),  # when all calls so far would be over if they came at the allowed rate
    Column("day", Integer, nullable=False),  # since 1970, of what follows
    Column("audio_seconds", Double, nullable=False),  # of songs asked for on that day
)

slots = Table(
    "tenant_slots",
    metadata,
    Column("id", String(32), primary_key=True),  # a call under way
    Column("tenant", String(128), nullable=False),
    Column("expires", Double, nullable=False),  # renewed by its server
    Index("tenant_slots_of_tenant", "tenant", "expires"),
)


class now(FunctionElement[float]):  # noqa: N801  # reads as SQL's own functions do
    """The database's clock: seconds since 1970."""

    inherit_cache = True
    type = Double()


@compiles(now, "sqlite")
def _sqlite_now(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(element: now, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"
