"""What encoding costs, measured when the stage starts and followed as it works."""

import time
from dataclasses import dataclass

from acestep_rpc.cost import CostModel
from acestep_rpc.v1 import encoder_pb2
from acestep_rpc.work import encode_features
from encoder_svc.encoder import NullCondition, PromptEncoder
from encoder_svc.lyric_service import read_lyrics
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer

TAGS = "funk, pop, soul, female vocals, bass, drums, guitar, 105 bpm, energetic"
LYRICS = "[verse]\nNeon lights they flicker bright\nCity hums in dead of night\n[chorus]\nTurn it up and let it flow\n"
LONG_LYRICS = 512  # tokens


@dataclass(frozen=True)
class EncoderCosts:
    """Predictions of this stage.

    Attributes:
        encode: Seconds, of `encode_features`.
        text_tokens: Tokens of tags, by characters.
        lyric_tokens: Tokens of lyrics, by characters.
    """

    encode: CostModel
    text_tokens: CostModel
    lyric_tokens: CostModel

    def seconds(self, request: encoder_pb2.EncodePromptRequest) -> float:
        """Predicted time of a request, before its texts are read."""
        text, negative = (self.text_tokens.predict({"characters": len(tags)}) for tags in (request.tags, request.negative_tags))
        lyrics = self.lyric_tokens.predict({"characters": len(request.lyrics)})
        return self.encode.predict(encode_features(request.null_condition, text, lyrics, negative))


def measure_costs(encoder: PromptEncoder, tokenizer: LyricTokenizer) -> EncoderCosts:
    """Encode prompts that differ in everything that costs; the cache is left as it was."""
    text_tokens = len(encoder.text_tokenizer.encode(TAGS))
    skip = encoder_pb2.LyricOptions(on_line_error=encoder_pb2.LINE_ERROR_POLICY_SKIP)  # a vocabulary may know no English
    ids = list(read_lyrics(tokenizer, LYRICS, skip).ids) or [0]
    many = (ids * LONG_LYRICS)[:LONG_LYRICS]
    shapes = [(TAGS, ids), (TAGS, many), ("", ids), (f"{TAGS}, {TAGS}", ids)]
    samples = []
    for tags, lyric_ids in shapes:
        features = encode_features(encoder_pb2.NULL_CONDITION_UNSPECIFIED, len(encoder.text_tokenizer.encode(tags)), len(lyric_ids))
        samples.append((features, min(_seconds(encoder, tags, lyric_ids) for _ in range(2))))
    return EncoderCosts(
        CostModel(samples),
        CostModel([({"characters": len(TAGS)}, text_tokens)]),
        CostModel([({"characters": len(LYRICS)}, len(ids))]),
    )


def _seconds(encoder: PromptEncoder, tags: str, lyric_ids: list[int]) -> float:
    started = time.perf_counter()
    encoder.encode_afresh(tags, lyric_ids, NullCondition.NONE)
    return time.perf_counter() - started
