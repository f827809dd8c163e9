"""Songs that the server keeps: the history of the page, and the sources of its tasks."""

from dataclasses import dataclass
from typing import Any

from acestep_client import AsyncClient, Job
from acestep_rpc.errors import NotFound
from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import music_pb2

MAX_SONGS = 200
_TASKS = {"text2music": "text to music", "audio2audio": "audio to audio"}


@dataclass(frozen=True)
class Take:
    """One kept song."""

    name: str
    """As "operations/.../results/0"."""
    song: music_pb2.Song
    time: str
    """When it was asked for, as "14:05" or "3 Nov 14:05", UTC."""

    @property
    def receipt(self) -> dict[str, Any]:
        """Everything that made it."""
        return to_dict(self.song.receipt)

    @property
    def title(self) -> str:
        """Its first tags."""
        tags = str(self.receipt.get("edit_target_prompt") or self.receipt.get("prompt") or "").strip() or "no tags"
        return tags if len(tags) <= 48 else tags[:47].rstrip(" ,") + "…"

    @property
    def label(self) -> str:
        """A line that tells it from others."""
        task = str(self.receipt.get("task", ""))
        facts = (_TASKS.get(task, task), f"{self.song.duration_seconds:.0f} s", f"seed {self.song.seed}", self.time)
        return f"{self.title} · " + " · ".join(facts)


async def takes(client: AsyncClient) -> list[Take]:
    """Kept songs, the newest first."""
    found: list[Take] = []
    async for job in client.jobs("state = succeeded"):
        found += _songs(job)
        if len(found) >= MAX_SONGS:
            break
    return found


async def take(client: AsyncClient, name: str) -> Take:
    """One of them.

    Raises:
        NotFound: The server has it no longer.
    """
    for found in _songs(await client.job(name.partition("/results/")[0])):
        if found.name == name:
            return found
    raise NotFound("result", name)


def _songs(job: Job) -> list[Take]:
    time = job.create_time
    return [Take(song.name, song, f"{time:%d %b %H:%M} UTC" if time else "") for song in job.outcome().songs if song.name]
