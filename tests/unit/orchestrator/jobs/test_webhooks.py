import asyncio
import base64
import hashlib
import hmac
import ipaddress
import itertools

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from acestep_rpc.errors import InvalidRequest, StageError, to_status
from orchestrator.jobs.database import Database
from orchestrator.jobs.schema import webhooks
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.webhooks import WebhookSender, check_secret, check_url, is_public, signed_headers
from tests.receiver import Receiver
from tests.unit.orchestrator.jobs.rows import add, completed, finished, taken

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def pending(database: Database) -> int:
    async def count(connection: AsyncConnection) -> int:
        return (await connection.execute(select(func.count()).select_from(webhooks))).scalar_one()

    return await database.run(count)


def test_the_signature_is_that_of_the_specifications_example() -> None:
    headers = signed_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64 at all!!!!!!!!!!!!!!!"]
)
def test_bad_keys_are_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(InvalidRequest, match="whsec_ and 24 to 64 bytes") as refused:
        check_secret("webhook_secret", secret)
    assert not secret or secret == "whsec_" or secret not in str(refused.value)
    check_secret("webhook_secret", SECRET)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/x",
        "file:///etc/passwd",
        "example.com",
        "https://",
        "https://user:password@example.com/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com/a b",
        "https://example.com/\r\nhost: other",
        "https://exämple.com/",
        "https://example.com/" + "x" * 2048,
        "http://localhost/",
        "http://LOCALHOST./",
        "http://127.0.0.1/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[2002:7f00:1::]/",
    ],
)
def test_urls_that_lead_nowhere_public_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_url("webhook_url", url, private_addresses=False)
    assert refused.value.violations[0][0] == "webhook_url"


@pytest.mark.parametrize(
    "url", ["https://example.com/done?job=1", "http://example.com:8080", "https://93.184.215.14/", "https://[2606:4700::1111]/"]
)
def test_public_urls_are_taken(url: str) -> None:
    check_url("webhook_url", url, private_addresses=False)


def test_private_addresses_are_a_setting() -> None:
    check_url("webhook_url", "http://10.1.2.3/", private_addresses=True)
    assert not is_public(ipaddress.ip_address("10.1.2.3"))


async def test_a_job_that_ends_calls_once_with_its_signed_operation(store: JobStore, database: Database) -> None:
    async with Receiver() as receiver:
        await finished(store, "a", webhook_url=receiver.url, webhook_secret=SECRET)
        sender = WebhookSender(database, True, 3, 0.01)
        await sender.send_due()
        await sender.send_due()
        (call,) = receiver.calls
    assert call.line == "POST /done?from=acestep HTTP/1.1"
    assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert call.headers["content-type"] == "application/json"
    signed = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.".encode() + call.body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    assert call.headers["webhook-signature"] == "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert call.content["type"] == "generation.succeeded"
    operation = call.content["data"]
    assert (operation["name"], operation["done"]) == ("operations/a", True)
    assert operation["response"]["@type"].endswith("acestep_rpc.v1.GenerateResult")
    assert operation["metadata"]["state"] == "JOB_STATE_SUCCEEDED"
    assert await pending(database) == 0


@pytest.mark.parametrize("ended", ["failed", "cancelled", "cancelled while it waits"])
async def test_every_end_is_told(store: JobStore, database: Database, ended: str) -> None:
    async with Receiver() as receiver:
        await add(store, "a", webhook_url=receiver.url, webhook_secret=SECRET)
        if ended == "failed":
            await store.fail(await taken(store), to_status(StageError("broken")))
        else:
            if ended == "cancelled":
                await taken(store)
            await store.cancel("a")
            await store.cancel("a")
        await WebhookSender(database, True, 3, 0.01).send_due()
        (call,) = receiver.calls
    assert call.content["type"] == f"generation.{ended.split()[0]}"
    assert call.content["data"]["error"]["code"] == (13 if ended == "failed" else 1)


async def test_a_call_that_fails_is_made_again_with_growing_waits_under_the_same_id(store: JobStore, database: Database) -> None:
    sender = WebhookSender(database, True, 9, 0.1)
    async with Receiver(statuses=[500, 302, 404]) as receiver:
        await finished(store, "a", webhook_url=receiver.url, webhook_secret=SECRET)
        async with asyncio.timeout(20):
            while len(receiver.calls) < 4:
                await sender.send_due()
                await asyncio.sleep(0.01)
    assert {call.headers["webhook-id"] for call in receiver.calls} == {receiver.calls[0].headers["webhook-id"]}
    assert {call.line for call in receiver.calls} == {receiver.calls[0].line}  # the redirect is not followed
    for wait, (first, second) in zip((0.05, 0.1, 0.2), itertools.pairwise(call.time for call in receiver.calls), strict=True):
        assert second - first >= wait - 0.005  # the database's clock counts milliseconds
    assert await pending(database) == 0


async def test_a_call_whose_sender_stops_in_the_middle_stays_in_the_database(stores: list[JobStore], databases: list[Database]) -> None:
    """Another server makes it when its time is up."""
    hold = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hold.set()
        await reader.read()  # until the caller goes away
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    await finished(stores[0], "a", webhook_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", webhook_secret=SECRET)
    sending = asyncio.create_task(WebhookSender(databases[0], True, 3, 0.01).send_due())
    await hold.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert await pending(databases[1]) == 1
    server.close()


@pytest.mark.parametrize(("statuses", "tries"), [([500] * 9, 3), ([410], 1)], ids=["given up", "gone"])
async def test_a_call_is_dropped_after_its_tries_or_when_the_receiver_is_gone(
    store: JobStore, database: Database, statuses: list[int], tries: int
) -> None:
    sender = WebhookSender(database, True, 3, 0.0)
    async with Receiver(statuses=statuses) as receiver:
        await finished(store, "a", webhook_url=receiver.url, webhook_secret=SECRET)
        for _ in range(6):
            await sender.send_due()
    assert len(receiver.calls) == tries
    assert await pending(database) == 0


async def test_a_name_that_leads_into_a_private_network_is_not_called(store: JobStore, database: Database) -> None:
    """localhost.localdomain and the like pass the check of the text; what they resolve to does not."""
    name = "ip6-localhost"
    async with Receiver() as receiver:
        check_url("webhook_url", f"http://{name}:{receiver.port}/", private_addresses=False)
        await finished(store, "a", webhook_url=f"http://{name}:{receiver.port}/", webhook_secret=SECRET)
        await WebhookSender(database, False, 1, 0.0).send_due()
    assert receiver.calls == []
    assert await pending(database) == 0


async def test_nobody_there_and_no_http_are_failures(store: JobStore, database: Database) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await finished(store, "a", webhook_url=f"http://127.0.0.1:{port}/", webhook_secret=SECRET)
    await finished(store, "b", webhook_url=f"https://127.0.0.1:{port}/", webhook_secret=SECRET)
    await finished(store, "c", webhook_url="http://127.0.0.1:1/", webhook_secret=SECRET)
    await WebhookSender(database, True, 9, 100.0).send_due()
    server.close()
    assert await pending(database) == 3


async def test_a_job_without_a_webhook_calls_nobody(store: JobStore, database: Database) -> None:
    await add(store, "a")
    await store.succeed(await taken(store), [completed()])
    assert await pending(database) == 0
