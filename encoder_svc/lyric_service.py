"""LyricsService, and how the messages about lyrics are read and written."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import encoder_pb2, lyrics_pb2, lyrics_pb2_grpc
from encoder_svc.lyrics.languages import LyricRules
from encoder_svc.lyrics.lyric_tokenizer import EncodedLyrics, LyricTokenizer

DEFAULT_RULES = encoder_pb2.LYRIC_RULES_REVISED
"""docs/lyrics.md says why."""
MAX_DURATION_SECONDS = 240.0
DENSE, SPARSE = 6.0, 0.5
"""Syllables a second."""
_RULES = {encoder_pb2.LYRIC_RULES_REFERENCE: LyricRules.REFERENCE, encoder_pb2.LYRIC_RULES_REVISED: LyricRules.REVISED}


class LyricsServicer(lyrics_pb2_grpc.LyricsServiceServicer):
    """Reads lyrics as a request would.

    Args:
        lyric_tokenizer: Of the checkpoint.
        worker: The thread that may do it.
    """

    def __init__(self, lyric_tokenizer: LyricTokenizer, worker: ThreadPoolExecutor) -> None:
        self._lyric_tokenizer = lyric_tokenizer
        self._worker = worker

    async def Preview(  # noqa: N802  # the contract's name
        self, request: lyrics_pb2.PreviewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> lyrics_pb2.PreviewResponse:
        """Every line, and whether the words fit the time."""
        seconds = request.duration_seconds if request.HasField("duration_seconds") else None
        if seconds is not None and not 0 < seconds <= MAX_DURATION_SECONDS:
            raise InvalidRequest("duration_seconds", seconds, f"above 0 and at most {MAX_DURATION_SECONDS:g}")
        loop = asyncio.get_running_loop()
        lyrics = await loop.run_in_executor(self._worker, read_lyrics, self._lyric_tokenizer, request.lyrics, request.lyric_options)
        syllables = sum(line.syllables for line in lyrics.lines)
        response = lyrics_pb2.PreviewResponse(
            lines=lyric_lines(lyrics), token_count=len(lyrics.ids), syllables=syllables, lyric_rules=lyric_rules(request.lyric_options)
        )
        if seconds is not None and syllables:
            rate = response.syllables_per_second = syllables / seconds
            dense, sparse = lyrics_pb2.SINGABILITY_TOO_DENSE, lyrics_pb2.SINGABILITY_TOO_SPARSE
            response.singability = dense if rate > DENSE else sparse if rate < SPARSE else lyrics_pb2.SINGABILITY_FITS
        return response


def read_lyrics(tokenizer: LyricTokenizer, lyrics: str, options: encoder_pb2.LyricOptions) -> EncodedLyrics:
    """Encode lyrics as the options say.

    Raises:
        InvalidRequest: An option has a value that does not exist, or as `LyricTokenizer.encode`.
        Unimplemented: As `LyricTokenizer.encode`.
    """
    if options.on_line_error not in encoder_pb2.LineErrorPolicy.values():
        raise InvalidRequest("lyric_options.on_line_error", options.on_line_error, ", ".join(encoder_pb2.LineErrorPolicy.keys()))
    return tokenizer.encode(
        lyrics,
        options.language if options.HasField("language") else None,
        _RULES[lyric_rules(options)],
        skip_unreadable=options.on_line_error == encoder_pb2.LINE_ERROR_POLICY_SKIP,
        normalize_tags=options.tag_normalization,
    )


def lyric_rules(options: encoder_pb2.LyricOptions) -> encoder_pb2.LyricRules:
    """Which rules the options mean.

    Raises:
        InvalidRequest: There are none of that number.
    """
    if options.lyric_rules not in encoder_pb2.LyricRules.values():
        raise InvalidRequest("lyric_options.lyric_rules", options.lyric_rules, ", ".join(encoder_pb2.LyricRules.keys()))
    return options.lyric_rules or DEFAULT_RULES


def lyric_lines(lyrics: EncodedLyrics) -> list[encoder_pb2.LyricLine]:
    """The account of every line."""
    return [
        encoder_pb2.LyricLine(
            line_number=number,
            language=line.language,
            normalized_text=line.normalized_text,
            token_count=line.token_count,
            unknown_characters=line.unknown_characters,
            warnings=line.warnings,
            language_reason=line.detection.reason.value,
            detected_language=line.detection.detected,
            language_score=line.detection.score,
            syllables=line.syllables,
        )
        for number, line in enumerate(lyrics.lines, start=1)
    ]
