"""One song on its way out: decoded pieces in, chunks of the file out, at the end the song's account of itself."""

import hashlib
import time
from collections.abc import Sequence

from google.protobuf import struct_pb2

from acestep_rpc.errors import StageError
from acestep_rpc.receipt import to_json
from acestep_rpc.v1 import music_pb2, stage_pb2, vae_pb2
from orchestrator.audio import CHANNELS, AudioWriter, open_writer, read_waveform
from orchestrator.plan import Plan
from orchestrator.receipt import Timecosts, without_run, write_receipt
from orchestrator.results import ResultWriter
from orchestrator.splice import Splice

MAX_CHUNK_BYTES = 1024 * 1024


class SongFile:
    """Turns the pieces of one variant into its file.

    Args:
        plan: What is made.
        variant_index: Which song of it.
        duration_seconds: Length asked for.
        descriptions: Of the stages.
        preprocess_seconds: What encoding took.
        diffusion_seconds: What sampling took.
        splice: Puts the kept part of the source back; None: all of the song is as it was decoded.
        keeper: Gets every chunk too; None: the song is not kept.
    """

    def __init__(
        self,
        plan: Plan,
        variant_index: int,
        duration_seconds: float,
        descriptions: Sequence[stage_pb2.DescribeResponse],
        preprocess_seconds: float,
        diffusion_seconds: float,
        splice: Splice | None = None,
        keeper: ResultWriter | None = None,
    ) -> None:
        self._plan = plan
        self._variant_index = variant_index
        self._duration_seconds = duration_seconds
        self._descriptions = descriptions
        self._preprocess_seconds = preprocess_seconds
        self._diffusion_seconds = diffusion_seconds
        self._splice = splice
        self._keeper = keeper
        self._start = time.monotonic()
        self._writer: AudioWriter | None = None
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._receipt = struct_pb2.Struct()
        self.num_samples = 0
        """Samples per channel so far."""
        self.total_samples = 0
        """Samples per channel of the song; known from the first piece on."""

    def add(self, piece: vae_pb2.DecodeLatentsResponse) -> list[music_pb2.AudioChunk]:
        """Take the next piece; returns what is ready of the file.

        Raises:
            StageError: The piece does not continue the song, or is no sound.
        """
        if self._splice is not None:
            piece = self._splice.apply(piece)
        waveform = read_waveform(piece)
        if self._writer is None:
            self.total_samples = piece.total_samples
            inside = to_json(without_run(self._write_receipt()))
            self._writer = open_writer(self._plan.audio_format, self._plan.sample_rate, self.total_samples, inside)
        end = self.num_samples + waveform.shape[1]
        expected = (self.num_samples, self.total_samples, self._plan.sample_rate)
        if (piece.start_sample, piece.total_samples, piece.sample_rate) != expected or end > self.total_samples:
            raise StageError(
                f"the vae stage sent samples {piece.start_sample} + {waveform.shape[1]} of {piece.total_samples} at {piece.sample_rate} Hz "
                f"after {self.num_samples} of {self.total_samples} at {self._plan.sample_rate} Hz"
            )
        self.num_samples = end
        return self._chunks(self._writer.write(waveform), last=False)

    def finish(self) -> list[music_pb2.AudioChunk]:
        """The rest of the file.

        Raises:
            StageError: Pieces are missing.
        """
        if self._writer is None or self.num_samples != self.total_samples:
            raise StageError(f"the vae stage sent {self.num_samples} of {self.total_samples} samples")
        self._receipt = self._write_receipt()
        return self._chunks(self._writer.close(), last=True)

    def song(self) -> music_pb2.Song:
        """The account of the finished file."""
        return music_pb2.Song(
            variant_index=self._variant_index,
            seed=self._plan.seeds[self._variant_index],
            format=self._plan.audio_format,
            sample_rate=self._plan.sample_rate,
            channels=CHANNELS,
            duration_seconds=self.total_samples / self._plan.sample_rate,
            size_bytes=self._size_bytes,
            sha256=self._sha256.hexdigest(),
            receipt=self._receipt,
        )

    def _write_receipt(self) -> struct_pb2.Struct:
        timecosts = Timecosts(self._preprocess_seconds, self._diffusion_seconds, time.monotonic() - self._start)
        duration = self.total_samples / self._plan.sample_rate
        return write_receipt(self._plan, self._variant_index, self._duration_seconds, duration, self._descriptions, timecosts, self._splice)

    def _chunks(self, data: bytes, last: bool) -> list[music_pb2.AudioChunk]:
        chunks = []
        for start in range(0, len(data), MAX_CHUNK_BYTES):
            part = data[start : start + MAX_CHUNK_BYTES]
            ends = last and start + len(part) == len(data)
            chunks.append(music_pb2.AudioChunk(variant_index=self._variant_index, offset=self._size_bytes, data=part, last=ends))
            if self._keeper is not None:
                self._keeper.write(chunks[-1])
            self._sha256.update(part)
            self._size_bytes += len(part)
        return chunks
