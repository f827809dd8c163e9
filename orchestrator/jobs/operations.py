"""google.longrunning.Operations on jobs: get, list, cancel, delete, wait."""

import base64
import binascii
import hashlib
import json
import re
from typing import Any

import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from sqlalchemy import ColumnElement, and_, or_, select

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.telemetry import tenant
from acestep_rpc.v1 import music_pb2
from orchestrator.jobs.job import UNFINISHED, job_id, to_operation
from orchestrator.jobs.schema import jobs
from orchestrator.jobs.service import Jobs

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_TERM = re.compile(r"\s*(state|done)\s*=\s*([A-Za-z]+)\s*")
_STATES = {music_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower(): state for state in music_pb2.JobState.values() if state}


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # its package has no types
    """The standard interface of jobs.

    Args:
        jobs: What is asked for.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def GetOperation(  # noqa: N802  # as all of these, the contract's name
        self, request: operations_pb2.GetOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.Operation:
        """How a job is doing."""
        return to_operation(await self._jobs.store.get(job_id(request.name)))

    async def ListOperations(  # noqa: N802
        self, request: operations_pb2.ListOperationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.ListOperationsResponse:
        """Jobs, the newest first."""
        if request.name not in ("", "operations"):
            raise InvalidRequest("name", request.name, '"operations"')
        if request.page_size < 0:
            raise InvalidRequest("page_size", request.page_size, f"0 (which is {DEFAULT_PAGE_SIZE}) to {MAX_PAGE_SIZE}")
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        query = select(jobs).where(jobs.c.tenant == tenant.get()).order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(size + 1)
        for condition in _conditions(request.filter):
            query = query.where(condition)
        if request.page_token:
            created, last_id = _read_token(request.page_token, request.filter)
            query = query.where(or_(jobs.c.created < created, and_(jobs.c.created == created, jobs.c.id < last_id)))
        found = await self._jobs.store.select(query)
        token = _token(found[size - 1].created, found[size - 1].id, request.filter) if len(found) > size else ""
        return operations_pb2.ListOperationsResponse(operations=[to_operation(job) for job in found[:size]], next_page_token=token)

    async def CancelOperation(  # noqa: N802
        self, request: operations_pb2.CancelOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> empty_pb2.Empty:
        """End a job; nothing happens to one that has ended."""
        await self._jobs.cancel(job_id(request.name))
        return empty_pb2.Empty()

    async def DeleteOperation(  # noqa: N802
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> empty_pb2.Empty:
        """Forget a job that has ended, and its songs."""
        await self._jobs.delete(job_id(request.name))
        return empty_pb2.Empty()

    async def WaitOperation(  # noqa: N802
        self, request: operations_pb2.WaitOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.Operation:
        """The job when it has ended, or as it is after the timeout; without one, as long as the caller waits."""
        timeout = request.timeout.ToMilliseconds() / 1000 if request.HasField("timeout") else None
        return to_operation(await self._jobs.wait(job_id(request.name), timeout))


def _conditions(text: str) -> list[ColumnElement[bool]]:
    """Of a filter: terms "state = NAME" and "done = true|false", joined by AND."""
    conditions = []
    for term in re.split(r"\bAND\b", text) if text.strip() else []:
        match = _TERM.fullmatch(term)
        name, value = (match[1], match[2].lower()) if match else ("", "")
        if name == "state" and value in _STATES:
            conditions.append(jobs.c.state == _STATES[value])
        elif name == "done" and value in ("true", "false"):
            conditions.append(jobs.c.state.not_in(UNFINISHED) if value == "true" else jobs.c.state.in_(UNFINISHED))
        else:
            raise InvalidRequest("filter", text, f'"state = {"|".join(_STATES)}" and "done = true|false", joined by AND')
    return conditions


def _token(created: float, last_id: str, text: str) -> str:
    """Where the next page starts; good for the same filter only."""
    return base64.urlsafe_b64encode(json.dumps([created, last_id, _digest(text)]).encode()).decode()


def _read_token(token: str, text: str) -> tuple[float, str]:
    try:
        created, last_id, digest = json.loads(base64.urlsafe_b64decode(token))
        if digest == _digest(text):
            return float(created), str(last_id)
    except (binascii.Error, ValueError, TypeError):
        pass
    raise InvalidRequest("page_token", token, "the next_page_token of a list with the same filter")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
