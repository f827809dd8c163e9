"""Lyrics of a real server, through the contract and the command line."""

import json
import os
import subprocess
import sys

import grpc.aio
import pytest

from acestep_rpc.channels import connect
from acestep_rpc.v1 import encoder_pb2, lyrics_pb2, lyrics_pb2_grpc
from tests.integration.requests import generate, song_request

LYRICS = "[Verse 1]\nhello world\n\u591c\u306e\u8857\nwe sing"
SKIP = encoder_pb2.LyricOptions(on_line_error=encoder_pb2.LINE_ERROR_POLICY_SKIP, tag_normalization=True)


async def test_a_preview_says_what_a_song_will_be_given(system, music):
    async with connect(system.front.target) as channel:
        stub = lyrics_pb2_grpc.LyricsServiceStub(channel)
        preview = await stub.Preview(lyrics_pb2.PreviewRequest(lyrics=LYRICS, lyric_options=SKIP, duration_seconds=2))
        with pytest.raises(grpc.aio.AioRpcError, match="line 3"):
            await stub.Preview(lyrics_pb2.PreviewRequest(lyrics=LYRICS))
    assert [line.normalized_text for line in preview.lines] == ["[verse]", "hello world", "", "we sing"]
    request = song_request()
    request.prompt.lyrics = LYRICS
    request.prompt.lyric_options.CopyFrom(SKIP)
    result = (await generate(music, request)).result
    assert list(result.lyric_lines) == list(preview.lines)
    assert any(warning.startswith("line 3: left out: ") for warning in result.warnings)
    receipt = result.songs[0].receipt
    assert (receipt["lyric_rules"], receipt["on_line_error"], receipt["tag_normalization"]) == ("revised", "skip", True)


def test_the_command_shows_every_line(system, tmp_path):
    (tmp_path / "song.txt").write_text(LYRICS, encoding="utf-8")

    def show(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clients.cli.main", "lyrics", str(tmp_path / "song.txt"), "--server", system.front.target]
        return subprocess.run([*command, *flags], check=False, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})

    shown = show("--skip-unreadable", "--duration", "60").stdout
    assert "only language of the vocabulary" in shown
    assert "line 3: left out" in shown
    assert "the nearest known one is [verse]" in shown
    assert "too sparse" in shown
    answer = json.loads(show("--skip-unreadable", "--json").stdout)
    assert [line["line_number"] for line in answer["lines"]] == [1, 2, 3, 4]
    refused = show()
    assert refused.returncode == 2
    assert "line 3" in refused.stderr
    assert "--lyric-language" in show("--lyric-language", "xx").stderr
