from pathlib import Path

import pytest

from acestep_rpc.api_keys import key_digest
from acestep_rpc.watched_files import WatchedFiles
from orchestrator.tenants.directory import Limits, read_tenants

ALICE, BOB = "acestep_alices-key", "acestep_bobs-key"


def test_a_key_leads_to_its_tenant_and_the_file_holds_no_key() -> None:
    text = f'alice.keys = ["sha256:{key_digest(ALICE)}", "sha256:{key_digest("acestep_new")}"]\nbob.keys = ["sha256:{key_digest(BOB)}"]'
    tenants = read_tenants(text, "file")
    assert [tenants.of_key(key) for key in (ALICE, "acestep_new", BOB, "acestep_other", "", "\udcff")] == ["alice", "alice", "bob"] + [
        None
    ] * 3
    assert ALICE not in text


def test_limits_are_a_tenants_own_or_those_for_everybody() -> None:
    text = '["*"]\nrequests_per_minute = 6\nconcurrent_requests = 2\n'
    text += '["auth0|7"]\nrequests_per_minute = 60.5\nmax_priority = "batch"\noperator = true'
    tenants = read_tenants(text, "file")
    assert tenants.limits("auth0|7") == Limits(60.5, None, 2, "batch", operator=True)
    assert tenants.limits("somebody") == Limits(6, None, 2)
    assert read_tenants("", "file").limits("somebody") == Limits()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice", "file: "),
        ('alice = "key"', "'alice' is no tenant"),
        ('alice.keys = ["acestep_plain"]', "alice.keys must be a list of"),
        (f'alice.keys = "sha256:{"0" * 64}"', "alice.keys must be a list of"),
        (f'a.keys = ["sha256:{"0" * 64}"]\nb.keys = ["sha256:{"0" * 64}"]', "b and a have the same key"),
        (f'["*"]\nkeys = ["sha256:{"0" * 64}"]', "and not 'keys'"),
        ('"*" = 5', "can have audio_seconds_per_day"),
        ("alice.requests = 5", "and not 'requests'"),
        ("alice.requests_per_minute = 0", "requests_per_minute=0 must be a number above 0"),
        ("alice.requests_per_minute = nan", "must be a number above 0"),
        ("alice.concurrent_requests = 1.5", "must be a whole number above 0"),
        ("alice.concurrent_requests = true", "must be a whole number above 0"),
        ('alice.max_priority = "urgent"', "must be one of batch, normal, interactive"),
        ("alice.operator = 1", "must be true or false"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        read_tenants(text, "file")


def test_a_changed_file_counts_and_a_broken_or_missing_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(f'alice.keys = ["sha256:{key_digest(ALICE)}"]')
    files = WatchedFiles([path], lambda: read_tenants(path.read_text(), "file"), check_seconds=0.0)
    path.write_text(f'bob.keys = ["sha256:{key_digest(BOB)}"]\n')
    assert (files.current().of_key(ALICE), files.current().of_key(BOB)) == (None, "bob")
    path.write_text("bob.keys = [")
    assert files.current().of_key(BOB) == "bob"
    path.unlink()
    assert files.current().of_key(BOB) == "bob"
    path.write_text("")
    assert files.current().of_key(BOB) is None
