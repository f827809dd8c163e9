"""`acestep retake`, `repaint`, `extend`, `edit` and `cover`: songs from songs."""

import argparse
from pathlib import Path

from acestep_rpc.v1 import music_pb2
from clients.cli.generate import add_song_parser
from clients.cli.request import read_lyrics, time_range, whole_number

EDIT_TYPES = {"only_lyrics": (0.6, 1.0), "remix": (0.2, 0.4)}
"""n_min and n_max: other words on the same music, or the same song in another style."""

_COMMON = "Flags that are not explained here are those of acestep generate. A source is a file, or what the server has.\n"


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands."""
    _add_retake(commands)
    _add_repaint(commands)
    _add_extend(commands)
    _add_edit(commands)
    _add_cover(commands)


def _add_retake(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = '  acestep retake --server localhost:7860 --tags "funk" --seed 7 --variance 0.2 --variance 0.6 -o take.wav\n'
    parser = add_song_parser(commands, "retake", "make the song of a seed again, a little different", f"{example}\n{_COMMON}")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="length, 1 to 240 (default: 60)")
    parser.add_argument(
        "--variance", type=float, action="append", default=[], help="0 (the same) to 1 (another song); repeat it for a grid"
    )
    _add_retake_seed(parser)
    parser.set_defaults(set_task=_set_retake, source=None)


def _set_retake(request: music_pb2.GenerateRequest, args: argparse.Namespace, source: music_pb2.AudioSource | None) -> None:
    retake = music_pb2.Retake(duration_seconds=args.duration, retake_variances=args.variance, retake_seeds=args.retake_seed)
    request.retake.CopyFrom(retake)


def _add_repaint(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = '  acestep repaint --server localhost:7860 --from song.wav --region 10:14.5 --tags "funk" -o mended.wav\n'
    parser = add_song_parser(commands, "repaint", "make stretches of a song anew", f"{example}\n{_COMMON}")
    _add_source(parser)
    parser.add_argument(
        "--region", type=time_range, action="append", required=True, metavar="START:END", help="seconds; repeat it for several"
    )
    parser.add_argument("--variance", type=float, metavar="X", help="how much may change, 0 to 1 (default: 0.5)")
    parser.add_argument(
        "--splice",
        action=argparse.BooleanOptionalAction,
        help="put the file's own samples back outside the regions; without it, all of the song passes through the codec (default: on)",
    )
    parser.add_argument("--feather", type=float, metavar="SECONDS", help="soft edges inside the regions, 0 to 5 (default: 0)")
    parser.add_argument(
        "--context",
        type=float,
        metavar="SECONDS",
        help="compute only this much around each region: cheaper, and the rest of the song is not heard (default: all of the song)",
    )
    _add_retake_seed(parser)
    parser.set_defaults(set_task=_set_repaint)


def _set_repaint(request: music_pb2.GenerateRequest, args: argparse.Namespace, source: music_pb2.AudioSource | None) -> None:
    repaint = music_pb2.Repaint(
        source=source,
        regions=[music_pb2.TimeRange(start_seconds=start, end_seconds=end) for start, end in args.region],
        retake_variance=args.variance,
        retake_seeds=args.retake_seed,
        splice_source=args.splice,
        feather_seconds=args.feather,
        context_seconds=args.context,
    )
    request.repaint.CopyFrom(repaint)


def _add_extend(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = '  acestep extend --server localhost:7860 --from song.wav --right 20 --tags "funk" -o longer.wav\n'
    parser = add_song_parser(commands, "extend", "make a song longer, to 720 seconds in all", f"{example}\n{_COMMON}")
    _add_source(parser)
    parser.add_argument("--left", type=float, metavar="SECONDS", help="to add before it (default: 0)")
    parser.add_argument("--right", type=float, metavar="SECONDS", help="to add after it (default: 0)")
    _add_retake_seed(parser)
    parser.set_defaults(set_task=_set_extend)


def _set_extend(request: music_pb2.GenerateRequest, args: argparse.Namespace, source: music_pb2.AudioSource | None) -> None:
    extend = music_pb2.Extend(source=source, left_seconds=args.left, right_seconds=args.right, retake_seeds=args.retake_seed)
    request.extend.CopyFrom(extend)


def _add_edit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = (
        '  acestep edit --server localhost:7860 --from song.wav --tags "funk" --lyrics-file old.txt \\\n'
        '      --target-tags "funk" --target-lyrics-file new.txt --type only_lyrics -o sung-anew.wav\n'
    )
    parser = add_song_parser(
        commands,
        "edit",
        "other words or another style on the same song",
        f"{example}\n--tags and --lyrics say what the source is, --target-tags and --target-lyrics what it shall become.\n{_COMMON}",
    )
    _add_source(parser)
    parser.add_argument("--target-tags", default="", metavar="TAGS", help="style that it shall have")
    parser.add_argument("--target-negative-tags", metavar="TAGS", help="style that it shall steer away from (default: none)")
    lyrics = parser.add_mutually_exclusive_group()
    lyrics.add_argument("--target-lyrics", metavar="TEXT", help=r"lyrics that it shall have; \n starts a line")
    lyrics.add_argument("--target-lyrics-file", type=Path, metavar="FILE", help="lyrics from a UTF-8 file")
    parser.add_argument(
        "--type", choices=tuple(EDIT_TYPES), help="sets --n-min and --n-max: only_lyrics to 0.6 and 1, remix to 0.2 and 0.4"
    )
    parser.add_argument("--n-min", type=float, metavar="X", help="share of the steps to skip, 0 to 1 (default: 0)")
    parser.add_argument("--n-max", type=float, metavar="X", help="share of the steps up to which the source is followed (default: 1)")
    parser.add_argument("--n-avg", type=whole_number(32), metavar="N", help="noise draws averaged a step, 1 to 16 (default: 1)")
    _add_retake_seed(parser)
    parser.set_defaults(set_task=_set_edit)


def _set_edit(request: music_pb2.GenerateRequest, args: argparse.Namespace, source: music_pb2.AudioSource | None) -> None:
    n_min, n_max = EDIT_TYPES[args.type] if args.type else (None, None)
    edit = music_pb2.Edit(
        source=source,
        target=music_pb2.Prompt(
            tags=args.target_tags,
            lyrics=read_lyrics(args.target_lyrics, args.target_lyrics_file),
            negative_tags=args.target_negative_tags,
        ),
        edit_n_min=n_min if args.n_min is None else args.n_min,
        edit_n_max=n_max if args.n_max is None else args.n_max,
        edit_n_avg=args.n_avg,
        retake_seeds=args.retake_seed,
    )
    request.edit.CopyFrom(edit)


def _add_cover(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = '  acestep cover --server localhost:7860 --from song.wav --strength 0.3 --tags "bossa nova" -o cover.wav\n'
    parser = add_song_parser(commands, "cover", "a song that follows a recording", f"{example}\n{_COMMON}")
    _add_source(parser)
    parser.add_argument("--strength", type=float, metavar="X", help="how closely, 0 (not at all) to 1 (the recording) (default: 0.5)")
    parser.set_defaults(set_task=_set_cover)


def _set_cover(request: music_pb2.GenerateRequest, args: argparse.Namespace, source: music_pb2.AudioSource | None) -> None:
    request.audio_to_audio.CopyFrom(music_pb2.AudioToAudio(source=source, ref_audio_strength=args.strength))


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="FILE",
        help="the song to start from: a file, assets/..., or operations/... as --keep names it",
    )


def _add_retake_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retake-seed", type=whole_number(64), action="append", default=[], help="second seed, one a song (default: drawn)"
    )
