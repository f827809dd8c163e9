import argparse
import io
import sys
from pathlib import Path

import pytest

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import music_pb2, sampling_pb2
from clients.cli.failures import CommandFailed, ExitCode
from clients.cli.request import add_arguments, build_request, in_terms_of_flags


def _request(*argv: str) -> music_pb2.GenerateRequest:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return build_request(parser.parse_args(argv), music_pb2.AUDIO_FORMAT_FLAC, None)


def test_flags_left_out_leave_their_fields_unset() -> None:
    request = _request("--tags", "funk")
    assert request.prompt.tags == "funk"
    assert request.prompt.lyrics == ""
    assert not request.prompt.HasField("negative_tags")
    assert _request("--tags", "funk", "--negative-tags", "").prompt.HasField("negative_tags")
    assert request.sampling == sampling_pb2.SamplingParams()
    assert request.WhichOneof("task") is None
    assert not request.HasField("num_variants")
    assert not request.output.HasField("sample_rate")
    assert not request.seeds


def test_every_sampling_parameter_has_a_flag() -> None:
    # fmt: off
    request = _request(
        "--steps", "12", "--guidance-scale", "7.5", "--scheduler", "heun", "--cfg-type", "cfg_star", "--omega-scale", "-3",
        "--guidance-interval", "0.25", "--guidance-interval-decay", "0.5", "--min-guidance-scale", "0",
        "--guidance-scale-text", "5", "--guidance-scale-lyric", "1.5", "--no-erg-tag", "--erg-lyric", "--no-erg-diffusion",
        "--oss-steps", "16, 29,52",
    )
    # fmt: on
    assert request.sampling == sampling_pb2.SamplingParams(
        infer_step=12,
        guidance_scale=7.5,
        scheduler_type=sampling_pb2.SCHEDULER_TYPE_HEUN,
        cfg_type=sampling_pb2.CFG_TYPE_CFG_STAR,
        omega_scale=-3,
        guidance_interval=0.25,
        guidance_interval_decay=0.5,
        min_guidance_scale=0,
        guidance_scale_text=5,
        guidance_scale_lyric=1.5,
        use_erg_tag=False,
        use_erg_lyric=True,
        use_erg_diffusion=False,
        oss_steps=[16, 29, 52],
    )
    assert {field.name for field, _ in request.sampling.ListFields()} == {
        field.name for field in sampling_pb2.SamplingParams.DESCRIPTOR.fields
    }


def test_zero_is_sent_as_zero_and_not_as_unset() -> None:
    request = _request("--guidance-scale", "0", "--num-variants", "0")
    assert request.sampling.HasField("guidance_scale")
    assert request.HasField("num_variants")


def test_seeds_repeat_and_keep_their_order() -> None:
    request = _request("--seed", "4294967295", "--seed", "0", "--num-variants", "3")
    assert list(request.seeds) == [4294967295, 0]
    assert request.num_variants == 3


@pytest.mark.parametrize(
    "argv",
    [["--seed", "-1"], ["--seed", "1.5"], ["--seed", str(2**64)], ["--steps", str(2**32)], ["--oss-steps", "1,,2"], ["--oss-steps", "a"]],
)
def test_a_number_that_no_message_can_hold_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _request(*argv)
    assert stopped.value.code == ExitCode.USAGE
    assert argv[0] in capsys.readouterr().err


def test_backslash_n_in_lyrics_starts_a_line() -> None:
    assert _request("--lyrics", r"[verse]\nhello world").prompt.lyrics == "[verse]\nhello world"


def test_lyrics_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "song.txt"
    path.write_bytes("\ufeff[verse]\na \\n stays\nça va\n".encode())
    assert _request("--lyrics-file", str(path)).prompt.lyrics == "[verse]\na \\n stays\nça va\n"


def test_lyrics_can_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert _request("--lyrics-file", "-").prompt.lyrics == "hello\n"


def test_lyrics_file_that_is_not_text_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "song.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandFailed, match="not UTF-8") as failure:
        _request("--lyrics-file", str(path))
    assert failure.value.exit_code == ExitCode.USAGE


def test_violations_name_the_flag_that_sets_the_field() -> None:
    error = InvalidRequest.from_violations(
        [
            ("sampling.infer_step", "0 is not allowed; allowed: 1 to 200"),
            ("seeds[1]", "4294967296 is not allowed; allowed: 0 to 4294967295"),
            ("sampling.use_erg_tag", "true needs use_erg_lyric"),
            ("text_to_music.duration_seconds", "10000.0 is not allowed; allowed: 1 to 240"),
            ("prompt.lyric_options.language", "'xx' is not allowed"),
            ("output.preview.at_steps[0]", "70 is not allowed; allowed: 1 to 60, the steps that are run"),
            ("output.preview.window.end_seconds", "70 is not allowed; allowed: at most 60, the end of the song"),
            ("output.later", "no"),
        ]
    )
    assert [field for field, _ in in_terms_of_flags(error).violations] == [
        "--steps",
        "--seed",
        "--erg-tag",
        "--duration",
        "--lyric-language",
        "--preview-steps",
        "--preview-window",
        "output.later",
    ]


def test_adapters_have_a_name_and_maybe_a_scale() -> None:
    request = _request("--adapter", "rap", "--adapter", "jazz:-0.5")
    assert [(adapter.name, adapter.HasField("scale"), adapter.scale) for adapter in request.adapters] == [
        ("rap", False, 0),
        ("jazz", True, -0.5),
    ]


def test_the_trained_scale_is_asked_for_every_adapter() -> None:
    for flags, expected in (((), False), (("--trained-scale",), True)):
        request = _request("--adapter", "a", "--adapter", "b:2", *flags)
        assert [adapter.use_trained_scale for adapter in request.adapters] == [expected] * 2
