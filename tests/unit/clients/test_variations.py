import argparse
from pathlib import Path
from typing import Any

import pytest

from acestep_rpc.v1 import music_pb2
from clients.cli import generate, variations

WHERE = ("--server", "localhost:1")


def _request(*argv: str, source: str = "assets/1") -> music_pb2.GenerateRequest:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    generate.add_parser(commands)
    variations.add_parsers(commands)
    args = parser.parse_args([argv[0], *WHERE, *argv[1:]])
    request = music_pb2.GenerateRequest()
    args.set_task(request, args, music_pb2.AudioSource(asset=source))
    return request


SOURCE = {"asset": "assets/1"}


@pytest.mark.parametrize(
    ("argv", "task"),
    [
        (("generate",), {"text_to_music": {}}),
        (("generate", "--duration", "0"), {"text_to_music": {"duration_seconds": 0}}),
        (("retake",), {"retake": {}}),
        (
            ("retake", "--duration", "9", "--variance", "0", "--variance", "1", "--retake-seed", "3"),
            {"retake": {"duration_seconds": 9, "retake_variances": [0, 1], "retake_seeds": [3]}},
        ),
        (
            ("repaint", "--from", "x", "--region", "1:2.5", "--region", "4:5", "--variance", "0"),
            {
                "repaint": {
                    "source": SOURCE,
                    "regions": [{"start_seconds": 1, "end_seconds": 2.5}, {"start_seconds": 4, "end_seconds": 5}],
                    "retake_variance": 0,
                }
            },
        ),
        (
            ("repaint", "--from", "x", "--region", "1:2", "--no-splice", "--feather", "0.2", "--context", "0"),
            {
                "repaint": {
                    "source": SOURCE,
                    "regions": [{"start_seconds": 1, "end_seconds": 2}],
                    "splice_source": False,
                    "feather_seconds": 0.2,
                    "context_seconds": 0,
                }
            },
        ),
        (("extend", "--from", "x", "--left", "0", "--right", "7"), {"extend": {"source": SOURCE, "left_seconds": 0, "right_seconds": 7}}),
        (
            (
                "edit",
                "--from",
                "x",
                "--target-tags",
                "jazz",
                "--target-lyrics",
                r"a\nb",
                "--target-negative-tags",
                "rock",
                "--type",
                "remix",
                "--n-max",
                "0.9",
                "--n-avg",
                "2",
            ),
            {
                "edit": {
                    "source": SOURCE,
                    "target": {"tags": "jazz", "lyrics": "a\nb", "negative_tags": "rock"},
                    "edit_n_min": 0.2,
                    "edit_n_max": 0.9,
                    "edit_n_avg": 2,
                }
            },
        ),
        (("edit", "--from", "x", "--target-tags", "jazz"), {"edit": {"source": SOURCE, "target": {"tags": "jazz"}}}),
        (("cover", "--from", "x"), {"audio_to_audio": {"source": SOURCE}}),
        (("cover", "--from", "x", "--strength", "0"), {"audio_to_audio": {"source": SOURCE, "ref_audio_strength": 0}}),
    ],
)
def test_flags_become_the_task_and_what_is_left_out_stays_unset(argv: tuple[str, ...], task: dict[str, Any]) -> None:
    assert _request(*argv) == music_pb2.GenerateRequest(**task)


def test_lyrics_of_the_target_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("[verse]\nhey")
    request = _request("edit", "--from", "x", "--target-lyrics-file", str(tmp_path / "new.txt"))
    assert request.edit.target.lyrics == "[verse]\nhey"


@pytest.mark.parametrize("argv", [("repaint", "--from", "x", "--region", "1-2"), ("repaint", "--from", "x"), ("cover",)])
def test_bad_usage_is_said(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _request(*argv)
    assert ended.value.code == 2
    assert ("--from" if argv == ("cover",) else "--region") in capsys.readouterr().err.splitlines()[-1]
