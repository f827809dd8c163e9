"""Finished songs that are kept: the file, the song's account of itself and its latents, so that later requests can start from it."""

import tempfile
from pathlib import Path

from acestep_rpc.errors import AlreadyExists
from acestep_rpc.v1 import music_pb2, tensor_pb2, vae_pb2
from orchestrator.assets import AssetStore


def result_name(request_id: str, variant_index: int) -> str:
    """Name of a kept song."""
    return f"operations/{request_id}/results/{variant_index}"


def is_result(name: str) -> bool:
    """Whether a source is a kept song and not an upload."""
    return name.startswith("operations/")


def place(name: str, attempt: int) -> str:
    """Name in the store of a song that an attempt at a job made: no attempt, however late, touches what another one made.

    Args:
        name: Of the song.
        attempt: 0: there was no job.
    """
    folder, _, variant_index = name.rpartition("/results/")
    return f"{folder}/attempts/{attempt}/results/{variant_index}" if attempt else name


def previews_place(request_id: str, attempt: int) -> str:
    """Folder in the store of the previews of an attempt at a job."""
    return f"operations/{request_id}/attempts/{attempt}/previews"


def preview_place(request_id: str, attempt: int, chunk: music_pb2.AudioChunk) -> str:
    """Name in the store of the preview that a chunk is of."""
    return f"{previews_place(request_id, attempt)}/{chunk.variant_index}-{chunk.preview_step}"


class Results:
    """Kept songs.

    Args:
        assets: Where they are kept.
        attempt: Of the job that makes them; 0: there is no job.
    """

    def __init__(self, assets: AssetStore, attempt: int = 0) -> None:
        self._assets = assets
        self._attempt = attempt

    async def claim(self, request_id: str) -> None:
        """Check that a request may keep its songs under its name.

        Raises:
            AlreadyExists: An earlier one did.
        """
        name = result_name(request_id, 0)
        if await self._assets.record(name, "latents") is not None:
            raise AlreadyExists(f"{name} is there already: request_id must be new to keep results", name=name)

    def open(self, request_id: str, variant_index: int) -> "ResultWriter":
        """Begin to keep a song."""
        name = result_name(request_id, variant_index)
        return ResultWriter(self._assets, name, place(name, self._attempt))


class ResultWriter:
    """Takes a song's file piece by piece; nothing is kept until `finish`. Close it in any case: what was spooled goes with it.

    Args:
        assets: Where it is kept.
        name: Its name.
        place: Its name in the store.
    """

    def __init__(self, assets: AssetStore, name: str, place: str) -> None:
        self._assets = assets
        self._name = name
        self._place = place
        self._spool = tempfile.NamedTemporaryFile(prefix="acestep-result-")  # noqa: SIM115  # close() closes it

    def write(self, chunk: music_pb2.AudioChunk) -> None:
        """Take the next piece of the file."""
        self._spool.write(chunk.data)

    async def finish(self, song: music_pb2.Song, latents: tensor_pb2.Tensor) -> None:
        """Keep the song; its name is set."""
        song.name = self._name
        record = vae_pb2.EncodeAudioResponse(
            latents=latents, duration_seconds=song.duration_seconds, sample_rate=song.sample_rate, channels=song.channels
        )
        self._spool.flush()
        await self._assets.add_audio(self._place, Path(self._spool.name))
        await self._assets.add_record(self._place, "song", song.SerializeToString())
        await self._assets.add_record(self._place, "latents", record.SerializeToString())  # last: with it the result is there

    def close(self) -> None:
        """Let go of what was spooled."""
        self._spool.close()
