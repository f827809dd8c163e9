"""Command line flags to GenerateRequest. Limits and defaults are the server's: only what cannot be put into a message is refused here."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2
from clients.cli.failures import CommandFailed, ExitCode

SCHEDULERS = {
    "euler": sampling_pb2.SCHEDULER_TYPE_EULER,
    "heun": sampling_pb2.SCHEDULER_TYPE_HEUN,
    "pingpong": sampling_pb2.SCHEDULER_TYPE_PINGPONG,
}
CFG_TYPES = {"apg": sampling_pb2.CFG_TYPE_APG, "cfg": sampling_pb2.CFG_TYPE_CFG, "cfg_star": sampling_pb2.CFG_TYPE_CFG_STAR}
FORMATS = {
    "wav": music_pb2.AUDIO_FORMAT_WAV_PCM16,
    "wav24": music_pb2.AUDIO_FORMAT_WAV_PCM24,
    "wav32f": music_pb2.AUDIO_FORMAT_WAV_FLOAT32,
    "flac": music_pb2.AUDIO_FORMAT_FLAC,
    "mp3": music_pb2.AUDIO_FORMAT_MP3,
    "ogg": music_pb2.AUDIO_FORMAT_OGG_VORBIS,
    "opus": music_pb2.AUDIO_FORMAT_OGG_OPUS,
}
LYRIC_RULES = {"reference": encoder_pb2.LYRIC_RULES_REFERENCE, "revised": encoder_pb2.LYRIC_RULES_REVISED}
_SAMPLING_FIELDS = tuple(field.name for field in sampling_pb2.SamplingParams.DESCRIPTOR.fields)

# Request fields and the flags that set them.
_FLAGS = {f"sampling.{name}": "--" + name.removeprefix("use_").replace("_", "-") for name in _SAMPLING_FIELDS} | {
    "sampling.infer_step": "--steps",
    "sampling.scheduler_type": "--scheduler",
    "prompt.tags": "--tags",
    "prompt.lyrics": "--lyrics",
    "prompt.lyric_options.language": "--lyric-language",
    "lyric_options.language": "--lyric-language",
    "prompt.negative_tags": "--negative-tags",
    "edit.target.negative_tags": "--target-negative-tags",
    "output.format": "--format",
    "output.sample_rate": "--sample-rate",
    "output.preview.at_steps": "--preview-steps",
    "output.preview.window.start_seconds": "--preview-window",
    "output.preview.window.end_seconds": "--preview-window",
    "text_to_music.duration_seconds": "--duration",
    "retake.duration_seconds": "--duration",
    "retake.retake_variances": "--variance",
    "retake.retake_seeds": "--retake-seed",
    "repaint.regions": "--region",
    "repaint.retake_variance": "--variance",
    "repaint.retake_seeds": "--retake-seed",
    "repaint.feather_seconds": "--feather",
    "repaint.context_seconds": "--context",
    "extend": "--left, --right",
    "extend.left_seconds": "--left",
    "extend.right_seconds": "--right",
    "extend.retake_seeds": "--retake-seed",
    "edit.target": "--target-tags, --target-lyrics",
    "edit.target.tags": "--target-tags",
    "edit.target.lyrics": "--target-lyrics",
    "edit.edit_n_min": "--n-min",
    "edit.edit_n_max": "--n-max",
    "edit.edit_n_avg": "--n-avg",
    "edit.retake_seeds": "--retake-seed",
    "audio_to_audio.ref_audio_strength": "--strength",
    "source": "--from",
    "data": "--from",
    "repaint.splice_source": "--splice",
    "seeds": "--seed",
    "num_variants": "--num-variants",
    "adapters": "--adapter",
    "adapters.scale": "--adapter",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a song; each one left out takes the server's default."""
    song = parser.add_argument_group("the song")
    song.add_argument("--tags", default="", help='style, separated by commas: "funk, female vocals, 105 bpm"')
    song.add_argument("--negative-tags", metavar="TAGS", help="style to steer away from (default: none)")
    lyrics = song.add_mutually_exclusive_group()
    lyrics.add_argument(
        "--lyrics", metavar="TEXT", help=r'lyrics with structure tags; \n starts a line: "[verse]\nhello world". None: instrumental'
    )
    lyrics.add_argument("--lyrics-file", type=Path, metavar="FILE", help="lyrics from a UTF-8 file; - reads standard input")
    add_lyric_arguments(parser)
    song.add_argument(
        "--seed",
        type=whole_number(64),
        action="append",
        default=[],
        help="same seed, same song; repeat it for several variants (default: drawn)",
    )
    song.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="NAME[:SCALE]",
        help="LoRA adapter of the server, scale -3 to 3 (default: 1)",
    )
    song.add_argument(
        "--trained-scale",
        action="store_true",
        help="multiply the scale of every adapter by the one that it was trained with, as its file states it (default: the scale alone)",
    )
    song.add_argument("--num-variants", type=whole_number(32), metavar="N", help="songs to make, 1 to 16 (default: one per seed, or 1)")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", dest="infer_step", type=whole_number(32), metavar="N", help="1 to 200 (default: 60)")
    sampling.add_argument("--scheduler", dest="scheduler_type", choices=tuple(SCHEDULERS), help="solver (default: euler)")
    sampling.add_argument("--guidance-scale", type=float, metavar="X", help="how strictly to follow the prompt, 0 to 200 (default: 15)")
    sampling.add_argument("--cfg-type", choices=tuple(CFG_TYPES), help="guidance rule (default: apg)")
    sampling.add_argument("--omega-scale", type=float, metavar="X", help="granularity, -100 to 100 (default: 10)")
    sampling.add_argument("--guidance-interval", type=float, metavar="X", help="share of the steps that is guided, 0 to 1 (default: 0.5)")
    sampling.add_argument("--guidance-interval-decay", type=float, metavar="X", help="fall of the guidance over them, 0 to 1 (default: 0)")
    sampling.add_argument(
        "--min-guidance-scale", type=float, metavar="X", help="guidance at the end of a full decay, 0 to 200 (default: 3)"
    )
    sampling.add_argument(
        "--guidance-scale-text", type=float, metavar="X", help="double condition: weight of the tags, 0 to 10 (default: 0)"
    )
    sampling.add_argument(
        "--guidance-scale-lyric", type=float, metavar="X", help="double condition: weight of the lyrics, 0 to 10 (default: 0)"
    )
    for name, what in (("tag", "tags"), ("lyric", "lyrics"), ("diffusion", "cross-attention")):
        sampling.add_argument(
            f"--erg-{name}",
            dest=f"use_erg_{name}",
            action=argparse.BooleanOptionalAction,
            help=f"entropy-rectified guidance: weaken the {what} of the null branch (default: on)",
        )
    previews = parser.add_argument_group("previews: the song before it is done")
    previews.add_argument("--preview-steps", type=_step_list, metavar="N,N,...", help="steps after which to hear it (default: none)")
    previews.add_argument(
        "--preview-window",
        type=time_range,
        metavar="START:END",
        help="what to hear, seconds (default: the first 10 seconds of what is new)",
    )
    sampling.add_argument("--oss-steps", type=_step_list, metavar="N,N,...", help="optimal steps, ascending, 1 to 1000 (default: none)")


def build_request(args: argparse.Namespace, audio_format: music_pb2.AudioFormat, sample_rate: int | None) -> music_pb2.GenerateRequest:
    """The request that the flags describe, without its task; a flag that was not given leaves its field unset."""
    sampling = sampling_pb2.SamplingParams()
    for name in _SAMPLING_FIELDS:
        value = getattr(args, name)
        if value is None:
            continue
        if name == "oss_steps":
            sampling.oss_steps.extend(value)
        elif name == "scheduler_type":
            sampling.scheduler_type = SCHEDULERS[value]
        elif name == "cfg_type":
            sampling.cfg_type = CFG_TYPES[value]
        else:
            setattr(sampling, name, value)
    for adapter in args.adapter:
        adapter.use_trained_scale = args.trained_scale
    return music_pb2.GenerateRequest(
        prompt=music_pb2.Prompt(
            tags=args.tags,
            lyrics=read_lyrics(args.lyrics, args.lyrics_file),
            lyric_options=lyric_options(args),
            negative_tags=args.negative_tags,
        ),
        sampling=sampling,
        output=music_pb2.OutputSpec(format=audio_format, sample_rate=sample_rate, preview=_preview(args)),
        adapters=args.adapter,
        seeds=args.seed,
        num_variants=args.num_variants,
    )


def _preview(args: argparse.Namespace) -> music_pb2.PreviewSpec | None:
    if args.preview_steps is None and args.preview_window is None:
        return None
    preview = music_pb2.PreviewSpec(at_steps=args.preview_steps)
    if args.preview_window is not None:
        preview.window.start_seconds, preview.window.end_seconds = args.preview_window
    return preview


def add_lyric_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how lyrics are read."""
    group = parser.add_argument_group("how lyrics are read (acestep lyrics shows it)")
    group.add_argument(
        "--lyric-language", metavar="CODE", help="of all lines that do not begin with [lang:CODE] (default: found line by line)"
    )
    group.add_argument("--lyric-rules", choices=tuple(LYRIC_RULES), help="as the model was trained, or mended (default: the server's)")
    group.add_argument("--skip-unreadable", action="store_true", help="leave lines that cannot be read out instead of failing")
    group.add_argument("--normalize-tags", action="store_true", help='read "[Verse 1]" as "[verse]", and repeated structure tags once')


def lyric_options(args: argparse.Namespace) -> encoder_pb2.LyricOptions:
    """What those flags say."""
    return encoder_pb2.LyricOptions(
        language=args.lyric_language,
        on_line_error=encoder_pb2.LINE_ERROR_POLICY_SKIP if args.skip_unreadable else None,
        lyric_rules=LYRIC_RULES[args.lyric_rules] if args.lyric_rules else None,
        tag_normalization=args.normalize_tags or None,
    )


def read_lyrics(text: str | None, file: Path | None) -> str:
    """Lyrics from a flag's text or from a file."""
    if file is None:
        # A shell passes \n on as two characters.
        return (text or "").replace("\\n", "\n")
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return str(data, encoding="utf-8-sig")
    except OSError as error:
        raise CommandFailed(f"lyrics: {error}", ExitCode.USAGE) from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"lyrics: {file} is not UTF-8: {error}", ExitCode.USAGE) from error


def in_terms_of_flags(error: InvalidRequest) -> InvalidRequest:
    """The same error, each field named as the flag that sets it."""
    return InvalidRequest.from_violations(
        [(_FLAGS.get(field.split("[")[0], field), description) for field, description in error.violations]
    )


def whole_number(bits: int) -> Callable[[str], int]:
    """Parser of a flag's value: 0 to 2^bits - 1."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) >= 2**bits:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^{bits} - 1")
        return int(text)

    return parse


def time_range(text: str) -> tuple[float, float]:
    """A flag's value START:END in seconds."""
    start, _, end = text.partition(":")
    try:
        return float(start), float(end)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not START:END in seconds") from None


def _adapter(text: str) -> sampling_pb2.AdapterSelection:
    name, colon, scale = text.partition(":")
    try:
        return sampling_pb2.AdapterSelection(name=name, scale=float(scale) if colon else None)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME or NAME:SCALE") from None


def _step_list(text: str) -> list[int]:
    return [whole_number(32)(part.strip()) for part in text.split(",")]
