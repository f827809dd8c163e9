"""Credentials of commands, from flags, files and the environment."""

import argparse
import tomllib
from pathlib import Path

import pytest

from acestep_rpc.api_keys import key_digest
from clients.cli.connection import API_KEY_VARIABLE, add_connection_arguments, open_client
from clients.cli.failures import CommandFailed
from clients.cli.main import main
from tests.certificates import Authority


def arguments(*argv: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_connection_arguments(parser)
    return parser.parse_args([str(word) for word in argv])


async def test_flags_that_lack_their_partner_and_bad_files_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("two words")
    for argv in (
        ["--tls-cert", "a"],
        ["--tls-cert", "a", "--tls-key", "b"],
        ["--tls-server-name", "a"],
        ["--tls-ca", tmp_path / "none"],
        ["--tls-ca", bad],
        ["--api-key-file", tmp_path / "none"],
        ["--api-key-file", bad],
    ):
        with pytest.raises(CommandFailed):
            open_client(arguments(*argv), "localhost:1")


async def test_a_key_on_its_way_through_a_network_in_plain_text_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "acestep_secret")
    authority = Authority(tmp_path)
    for target, argv, warned in (
        ("localhost:1", [], False),
        ("music.example:1", [], True),
        ("music.example:1", ["--tls-ca", authority.ca], False),
        ("music.example:1", ["--tls-ca", "system"], False),
    ):
        await open_client(arguments(*argv), target).close()
        said = capsys.readouterr().err
        assert ("in plain text" in said) == warned
        assert "acestep_secret" not in said


def test_a_new_key_comes_with_the_line_that_lets_it_in(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("alice", 'auth0|a "quoted" ü𝄞'):
        assert main(["keys", "new", name]) == 0
        key, line = capsys.readouterr().out.splitlines()
        assert tomllib.loads(line) == {name: {"keys": [f"sha256:{key_digest(key)}"]}}
        assert len(key) > 40
    assert main(["keys", "new", "*"]) == 2
