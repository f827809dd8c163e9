"""What tenants have used and may still use. In the jobs' database: orchestrators that share one count together, by its clock."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from acestep_rpc.errors import DeadlineExceeded, PermissionDenied, QuotaExceeded, RequestCancelled
from acestep_rpc.telemetry import log, tenant
from acestep_rpc.v1 import music_pb2
from orchestrator.jobs.database import Database, DatabaseUnavailable
from orchestrator.jobs.job import UNFINISHED
from orchestrator.jobs.schema import jobs, now, slots, usage
from orchestrator.tenants.directory import NOBODY, PRIORITIES, Limits, Tenants

_SLOT_SECONDS = 30.0  # how long a call counts whose server is not heard of
_RENEWAL_SECONDS = 10.0
_CONCURRENT_RETRY_SECONDS = 2.0
_DAY = 86400


class Quotas:
    """Counts for the running task's tenant; nothing is counted where none is known, or where it has no such limit.

    Args:
        database: Has the counts.
        tenants: Gives the file of tenants as it is now.
        renewal_seconds: How often calls under way tell the database that they are.
    """

    def __init__(
        self, database: Database, tenants: Callable[[], Tenants] = lambda: NOBODY, renewal_seconds: float = _RENEWAL_SECONDS
    ) -> None:
        self._database = database
        self.tenants = tenants
        """The file of tenants as it is now."""
        self._renewal_seconds = renewal_seconds

    def limits(self) -> Limits:
        """Of the running task's tenant."""
        return self.tenants().limits(tenant.get()) if tenant.get() else Limits()

    async def count_call(self) -> None:
        """Count a call: a minute's worth may come at once, and comes back over a minute.

        Raises:
            QuotaExceeded: There were too many.
        """
        limit = self.limits().requests_per_minute
        if limit is None:
            return
        name, interval = tenant.get(), 60.0 / limit

        async def transaction(connection: AsyncConnection) -> None:
            row = await _locked(connection, name)
            following = max(row.next_call, row.now) + interval
            wait = following - max(60.0, interval) - row.now
            if wait > 1e-6:
                raise QuotaExceeded("requests_per_minute", f"more than {limit:g} requests a minute", wait)
            await _change(connection, name, next_call=following)

        await self._database.run(transaction)

    def with_priority(self, request: music_pb2.GenerateRequest) -> music_pb2.GenerateRequest:
        """The request, in the tenant's highest class if it names none and that is below normal.

        Raises:
            PermissionDenied: It names a higher one.
        """
        name = self.limits().max_priority
        if name is None or (highest := PRIORITIES[name]) >= (request.priority or music_pb2.PRIORITY_NORMAL):
            return request
        if request.priority:
            raise PermissionDenied(f"priority: the highest class that is allowed is {name}")
        lowered = music_pb2.GenerateRequest()
        lowered.CopyFrom(request)
        lowered.priority = highest
        return lowered

    @contextlib.asynccontextmanager
    async def request(self, audio_seconds: float) -> AsyncIterator[None]:
        """Count a request for as long as the block runs, and its songs for the day; those of a block that fails do not count.

        Args:
            audio_seconds: Length of all its songs.
        Raises:
            QuotaExceeded: It would be too much.
        """
        limits, name = self.limits(), tenant.get()
        if limits.audio_seconds_per_day is None and limits.concurrent_requests is None:
            yield
            return
        slot = secrets.token_hex(16)
        entered = await self._database.run(lambda connection: _enter(connection, name, limits, audio_seconds, slot))
        renewing = asyncio.create_task(self._renew(slot))
        try:
            yield
        except (RequestCancelled, DeadlineExceeded):  # the work was done, or some of it
            raise
        except Exception:
            await self.refund(audio_seconds, entered)
            raise
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            with contextlib.suppress(DatabaseUnavailable):  # it counts for a little longer then
                await self._execute(delete(slots).where(slots.c.id == slot))

    async def refund(self, audio_seconds: float, since: float) -> None:
        """Give back what a request that failed was charged.

        Args:
            audio_seconds: Of its songs.
            since: When it was charged, in seconds since 1970: of a day that is over nothing is left to give back.
        """
        if self.limits().audio_seconds_per_day is None:
            return
        charged = (usage.c.tenant == tenant.get()) & (usage.c.day == int(since // _DAY))
        try:
            await self._execute(update(usage).where(charged).values(audio_seconds=usage.c.audio_seconds - audio_seconds))
        except DatabaseUnavailable as error:
            log("not_refunded", level=logging.ERROR, audio_seconds=audio_seconds, reason=str(error))

    async def _renew(self, slot: str) -> None:
        while True:
            await asyncio.sleep(self._renewal_seconds)
            with contextlib.suppress(DatabaseUnavailable):
                await self._execute(update(slots).where(slots.c.id == slot).values(expires=now() + _SLOT_SECONDS))

    async def _execute(self, statement: Any) -> None:
        async def transaction(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._database.run(transaction)


async def _enter(connection: AsyncConnection, name: str, limits: Limits, audio_seconds: float, slot: str) -> float:
    """Charge a request or refuse it; returns when that was."""
    row = await _locked(connection, name)  # until the end of the transaction: nobody else counts for this tenant now
    moment = float(row.now)
    if limits.concurrent_requests is not None:
        await connection.execute(delete(slots).where(slots.c.expires < now()))
        of_tenant = select(func.count()).select_from(slots).where(slots.c.tenant == name, slots.c.id != slot)
        unfinished = select(func.count()).select_from(jobs).where(jobs.c.tenant == name, jobs.c.state.in_(UNFINISHED))
        under_way = [(await connection.execute(query)).scalar_one() for query in (of_tenant, unfinished)]
        if sum(under_way) >= limits.concurrent_requests:
            message = f"{sum(under_way)} requests are under way, of {limits.concurrent_requests}"
            raise QuotaExceeded("concurrent_requests", message, _CONCURRENT_RETRY_SECONDS)
        await connection.execute(delete(slots).where(slots.c.id == slot))  # of a commit of unknown outcome
        await connection.execute(insert(slots).values(id=slot, tenant=name, expires=now() + _SLOT_SECONDS))
    if limits.audio_seconds_per_day is not None:
        day = int(moment // _DAY)
        used = row.audio_seconds if row.day == day else 0.0
        if used + audio_seconds > limits.audio_seconds_per_day:
            left = f"{audio_seconds:g} s asked for, {max(0.0, limits.audio_seconds_per_day - used):g} s of today's are left"
            fits_tomorrow = audio_seconds <= limits.audio_seconds_per_day
            raise QuotaExceeded("audio_seconds_per_day", left, (day + 1) * _DAY - moment if fits_tomorrow else None)
        await _change(connection, name, day=day, audio_seconds=used + audio_seconds)
    return moment


async def _locked(connection: AsyncConnection, name: str) -> Row[Any]:
    """The tenant's row, its own until the transaction ends, with the database's time as `now`."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(usage).values(tenant=name, next_call=0.0, day=0, audio_seconds=0.0)
    statement = statement.on_conflict_do_update(index_elements=[usage.c.tenant], set_={"tenant": name})
    row: Row[Any] = (await connection.execute(statement.returning(usage, now().label("now")))).one()
    return row


async def _change(connection: AsyncConnection, name: str, **values: float) -> None:
    await connection.execute(update(usage).where(usage.c.tenant == name).values(**values))
