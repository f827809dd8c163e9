"""EncoderService and the encoder's StageService: messages to tensors and back."""

import asyncio
import contextlib
import importlib.metadata
import time
import unicodedata
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import torch

from acestep_rpc import adapter_service, telemetry
from acestep_rpc.admission import Backlog
from acestep_rpc.engine import Engine
from acestep_rpc.errors import InvalidRequest
from acestep_rpc.server import Registration
from acestep_rpc.status import LoadStatus
from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import encoder_pb2, encoder_pb2_grpc, lyrics_pb2_grpc, sampling_pb2, stage_pb2, stage_pb2_grpc, tensor_pb2
from acestep_rpc.work import encode_features
from encoder_svc.adapters import NAME, AdapterError, AdapterStore
from encoder_svc.costs import EncoderCosts, measure_costs
from encoder_svc.encoder import Conditioning, NullCondition, PromptEncoder
from encoder_svc.known_tags import KnownTags, ReadTags
from encoder_svc.lyric_service import DEFAULT_RULES, LyricsServicer, lyric_lines, lyric_rules, read_lyrics
from encoder_svc.lyrics.lyric_tokenizer import MAX_LYRIC_CHARACTERS, MAX_LYRIC_TOKENS, EncodedLyrics, LyricTokenizer
from encoder_svc.settings import Settings
from encoder_svc.text_tokenizer import MAX_PROMPT_CHARACTERS, MAX_PROMPT_TOKENS
from encoder_svc.weights import TEXT_FOLDER, TRANSFORMER_FOLDER, model_digest

MAX_ADAPTERS = 8
MAX_ADAPTER_SCALE = 3.0
PACKAGES = ("torch", "transformers", "tokenizers", "num2words")
LIBRARIES = ("py3langid", "pypinyin", "cutlet", "fugashi", "unidic-lite", "hangul-romanize", "anyascii")
"""Of languages, where they are installed: their versions decide token ids."""
_NULL_CONDITIONS = {
    encoder_pb2.NULL_CONDITION_UNSPECIFIED: NullCondition.NONE,
    encoder_pb2.NULL_CONDITION_ZEROS: NullCondition.ZEROS,
    encoder_pb2.NULL_CONDITION_WEAKENED_LYRICS: NullCondition.WEAKENED_LYRICS,
    encoder_pb2.NULL_CONDITION_WEAKENED: NullCondition.WEAKENED,
    encoder_pb2.NULL_CONDITION_MASKED: NullCondition.MASKED,
}


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Encodes prompts, one at a time.

    Args:
        encoder: The loaded stage.
        lyric_tokenizer: Of the same checkpoint.
        adapters: What requests can name.
        worker: The stage's only thread for torch.
        costs: What requests take.
        backlog: Lets requests in.
        known_tags: Of the same checkpoint; None: it takes every text.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        lyric_tokenizer: LyricTokenizer,
        adapters: AdapterStore,
        worker: ThreadPoolExecutor,
        costs: EncoderCosts,
        backlog: Backlog,
        known_tags: KnownTags | None = None,
    ) -> None:
        self._costs = costs
        self._backlog = backlog
        self._known_tags = known_tags
        self._encoder = encoder
        self._lyric_tokenizer = lyric_tokenizer
        self._adapters = adapters
        self._worker = worker

    async def EncodePrompt(
        self, request: encoder_pb2.EncodePromptRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> encoder_pb2.EncodePromptResponse:
        """Tokenise, encode, pack; cancellation takes effect between the three."""
        with self._backlog.admit(self._costs.seconds(request)):
            return await self._encode_prompt(request)

    async def _encode_prompt(self, request: encoder_pb2.EncodePromptRequest) -> encoder_pb2.EncodePromptResponse:
        _refuse_unknown_enum_value("null_condition", request.null_condition, encoder_pb2.NullCondition)
        _refuse_control_characters("prompt.tags", request.tags)
        _refuse_control_characters("prompt.negative_tags", request.negative_tags)
        negative_tags = _negative_tags(request)
        selections = read_adapters(request.adapters)
        trained = {adapter.name for adapter in request.adapters if adapter.use_trained_scale}
        tags, negative_tags = self._read_tags(request.tags, negative_tags)
        loop = asyncio.get_running_loop()
        lyrics = await loop.run_in_executor(self._worker, read_lyrics, self._lyric_tokenizer, request.lyrics, request.lyric_options)
        if request.lyrics and lyrics.ids:
            self._costs.lyric_tokens.observe({"characters": len(request.lyrics)}, len(lyrics.ids))
        conditioning = await loop.run_in_executor(
            self._worker, self._encode, tags.text, lyrics, request.null_condition, selections, trained, negative_tags
        )
        rules = lyric_rules(request.lyric_options)
        return await loop.run_in_executor(self._worker, _to_response, conditioning, lyrics, tags, rules)

    def _read_tags(self, tags: str, negative_tags: str | None) -> tuple[ReadTags, str | None]:
        """Both in the checkpoint's words, and what became of them."""
        if self._known_tags is None:
            return ReadTags(tags, ()), negative_tags
        read = self._known_tags.read(tags)
        if negative_tags is None:
            return read, None
        negative = self._known_tags.read(negative_tags)
        return ReadTags(read.text, read.warnings + tuple(f"negative tags: {warning}" for warning in negative.warnings)), negative.text

    def _encode(
        self,
        tags: str,
        lyrics: EncodedLyrics,
        null_condition: encoder_pb2.NullCondition,
        selections: list[tuple[str, float]],
        use_trained_scale: set[str],
        negative_tags: str | None,
    ) -> Conditioning:
        encoded, started = self._encoder.num_encoded, time.perf_counter()
        with telemetry.STAGE_SECONDS.labels("encoder").time():
            try:
                adaptation = self._adapters.select(selections, use_trained_scale)
            except AdapterError as error:
                raise InvalidRequest.from_violations([("adapters", str(error))]) from error
            conditioning = self._encoder.encode(tags, lyrics.ids, _NULL_CONDITIONS[null_condition], adaptation, negative_tags)
        if self._encoder.num_encoded > encoded:  # what was known says nothing
            text_tokens, null_text = len(conditioning.text_hidden_states), conditioning.null_text_hidden_states
            negative_tokens = 0 if negative_tags is None or null_text is None else len(null_text)
            features = encode_features(null_condition, text_tokens, len(lyrics.ids), negative_tokens)
            telemetry.COST_ERROR.labels("encoder").observe(self._costs.encode.observe(features, time.perf_counter() - started))
            if tags:
                self._costs.text_tokens.observe({"characters": len(tags)}, text_tokens)
        return conditioning


class StageServicer(stage_pb2_grpc.StageServiceServicer):
    """Describes the loaded encoder."""

    def __init__(
        self,
        encoder: PromptEncoder,
        lyric_tokenizer: LyricTokenizer,
        digest: str,
        adapters: AdapterStore,
        costs: EncoderCosts,
        backlog: Backlog,
    ) -> None:
        self._adapters = adapters
        self._costs = costs
        self._backlog = backlog
        self.load = LoadStatus(backlog.status)
        """For those who watch it."""
        self._description = stage_pb2.DescribeResponse(
            stage="encoder",
            model_digest=digest,
            dtype=str(encoder.dtype).removeprefix("torch."),
            device=str(encoder.device),
            versions={name: version for name in PACKAGES + LIBRARIES if (version := _version(name))},
            limits={
                "max_prompt_tokens": MAX_PROMPT_TOKENS,
                "max_prompt_characters": MAX_PROMPT_CHARACTERS,
                "max_lyric_tokens": MAX_LYRIC_TOKENS,
                "max_lyric_characters": MAX_LYRIC_CHARACTERS,
                "max_adapters": MAX_ADAPTERS,
            },
            features={
                "lyric_languages": ",".join(lyric_tokenizer.languages),
                "transliterated_lyric_languages": ",".join(lyric_tokenizer.transliterated_languages),
                "lyric_rules": encoder_pb2.LyricRules.Name(DEFAULT_RULES),
                "structure_tags": ",".join(lyric_tokenizer.vocabulary.structure_tags),
            },
        )

    async def Describe(
        self, request: stage_pb2.DescribeRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> stage_pb2.DescribeResponse:
        """The same answer while the process lives, but for the names in the adapter store, costs and backlog."""
        names = await asyncio.get_running_loop().run_in_executor(None, self._adapters.names)
        description = stage_pb2.DescribeResponse()
        description.CopyFrom(self._description)
        description.features["adapters"] = ",".join(names)
        for name in ("encode", "text_tokens", "lyric_tokens"):
            description.costs.add(name=name, coefficients=getattr(self._costs, name).coefficients)
        description.backlog_seconds = self._backlog.seconds
        return description

    async def WatchStatus(
        self, request: stage_pb2.WatchStatusRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[stage_pb2.WatchStatusResponse]:
        """Load, as it changes."""
        async with contextlib.aclosing(self.load.watch()) as statuses:
            async for status in statuses:
                yield status


async def load(settings: Settings) -> Sequence[Registration]:
    """Load the weights in the stage's worker thread and build its services.

    Raises:
        CheckpointError: The checkpoint does not fit.
        AdapterError: The adapter store does not exist.
    """
    worker = Engine("encoder")
    encoder, lyric_tokenizer, digest, adapters, costs = await asyncio.get_running_loop().run_in_executor(worker, _load, settings)
    backlog = Backlog("encoder", settings.max_requests)
    stage = StageServicer(encoder, lyric_tokenizer, digest, adapters, costs, backlog)
    return (
        Registration(
            "acestep_rpc.v1.EncoderService",
            EncoderServicer(encoder, lyric_tokenizer, adapters, worker, costs, backlog, KnownTags.load(settings.checkpoint)),
            encoder_pb2_grpc.add_EncoderServiceServicer_to_server,
        ),
        Registration(
            "acestep_rpc.v1.LyricsService", LyricsServicer(lyric_tokenizer, worker), lyrics_pb2_grpc.add_LyricsServiceServicer_to_server
        ),
        Registration("acestep_rpc.v1.StageService", stage, stage_pb2_grpc.add_StageServiceServicer_to_server, stage.load.drain),
        adapter_service.registration(adapters, worker),
    )


def _load(settings: Settings) -> tuple[PromptEncoder, LyricTokenizer, str, AdapterStore, EncoderCosts]:
    started = time.perf_counter()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = torch.device(settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    dtype = _choose_dtype(settings.dtype, device)
    encoder = PromptEncoder.load(settings.checkpoint, device, dtype, settings.cache_bytes)
    lyric_tokenizer = LyricTokenizer(settings.checkpoint / "lyric_vocab.json", encoder.lyric_encoder.config.vocab_size)
    digest = model_digest({TEXT_FOLDER: encoder.text_encoder.umt5, TRANSFORMER_FOLDER: encoder.lyric_encoder})
    telemetry.log(
        "encoder_loaded", device=str(device), dtype=str(dtype), model_digest=digest, seconds=round(time.perf_counter() - started, 3)
    )
    adapters = AdapterStore(settings.adapters, encoder.lyric_encoder, settings.max_loaded_adapters)
    for name in settings.warm_adapters:
        adapters.load(name)
    costs = measure_costs(encoder, lyric_tokenizer)
    telemetry.log("costs_measured", stage="encoder", coefficients=costs.encode.coefficients)
    return encoder, lyric_tokenizer, digest, adapters, costs


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """What the setting names; for "auto" bfloat16 where the device does it fast."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


def _refuse_unknown_enum_value(field: str, value: int, values: Any) -> None:
    if value not in values.values():
        raise InvalidRequest(field, value, ", ".join(values.keys()))


def read_adapters(selections: Sequence[sampling_pb2.AdapterSelection]) -> list[tuple[str, float]]:
    """Names and scales; a scale that is not set is 1.

    Raises:
        InvalidRequest: Too many, a name that cannot be one or comes twice, a scale out of its range.
    """
    if len(selections) > MAX_ADAPTERS:
        raise InvalidRequest("adapters", f"{len(selections)} adapters", f"at most {MAX_ADAPTERS}")
    found: dict[str, float] = {}
    for index, selection in enumerate(selections):
        scale = selection.scale if selection.HasField("scale") else 1.0
        if not NAME.fullmatch(selection.name):
            raise InvalidRequest(f"adapters[{index}].name", selection.name, "1 to 128 letters, digits, '.', '_', '-', the first no sign")
        if selection.name in found:
            raise InvalidRequest(f"adapters[{index}].name", selection.name, "a name once")
        if not -MAX_ADAPTER_SCALE <= scale <= MAX_ADAPTER_SCALE:
            raise InvalidRequest(f"adapters[{index}].scale", scale, f"{-MAX_ADAPTER_SCALE:g} to {MAX_ADAPTER_SCALE:g}")
        found[selection.name] = scale
    return list(found.items())


def _negative_tags(request: encoder_pb2.EncodePromptRequest) -> str | None:
    """Those of the request; None: unset.

    Raises:
        InvalidRequest: The null branch has no place for them.
    """
    if not request.HasField("negative_tags"):
        return None
    if _NULL_CONDITIONS[request.null_condition] in (NullCondition.NONE, NullCondition.WEAKENED):
        allowed = "ZEROS, WEAKENED_LYRICS or MASKED with negative_tags"
        raise InvalidRequest("null_condition", encoder_pb2.NullCondition.Name(request.null_condition), allowed)
    return request.negative_tags


def _refuse_control_characters(field: str, tags: str) -> None:
    controls = sorted({character for character in tags if unicodedata.category(character) == "Cc" and character not in "\t\n\r"})
    if controls:
        raise InvalidRequest(field, "".join(controls), "text without control characters")


def _to_response(
    conditioning: Conditioning, lyrics: EncodedLyrics, tags: ReadTags, rules: encoder_pb2.LyricRules
) -> encoder_pb2.EncodePromptResponse:
    def packed(tensor: torch.Tensor | None) -> tensor_pb2.Tensor | None:
        return None if tensor is None else pack(tensor)

    return encoder_pb2.EncodePromptResponse(
        conditioning=encoder_pb2.Conditioning(
            text_hidden_states=pack(conditioning.text_hidden_states),
            lyric_hidden_states=pack(conditioning.lyric_hidden_states),
            lyric_attention_mask=pack(conditioning.lyric_attention_mask),
            null_text_hidden_states=packed(conditioning.null_text_hidden_states),
            null_lyric_hidden_states=packed(conditioning.null_lyric_hidden_states),
            null_lyric_attention_mask=packed(conditioning.null_lyric_attention_mask),
        ),
        lines=lyric_lines(lyrics),
        tags=tags.text,
        tag_warnings=tags.warnings,
        lyric_rules=rules,
    )
