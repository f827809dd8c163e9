"""Songs made again: from the parameters beside a song, or inside it."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from acestep_client import AsyncClient
from acestep_client.parameters import Recipe, UnusableParameters, read_recipe, set_source
from acestep_client.requests import EXTENSIONS, FORMATS
from acestep_rpc.errors import NotFound
from acestep_rpc.v1 import music_pb2
from clients.cli.failures import CommandFailed, ExitCode, missing_extra


def find_recipe(path: Path, flag: str) -> Recipe:
    """How the song of a file was made.

    Args:
        path: A parameter file or a song.
        flag: That named it, for messages.
    Raises:
        CommandFailed: It does not say.
    """
    try:
        return read_recipe(path)
    except UnusableParameters as error:
        raise CommandFailed(f"{flag} {path}: {error}", ExitCode.USAGE) from error
    except OSError as error:
        raise CommandFailed(f"{flag} {error}", ExitCode.USAGE) from error
    except ModuleNotFoundError as error:
        raise missing_extra(error, "client") from error


def extension(audio_format: music_pb2.AudioFormat) -> str:
    """Of a file in this format."""
    return next(EXTENSIONS[name] for name, number in FORMATS.items() if number == audio_format)


def changed(request: music_pb2.GenerateRequest, given: music_pb2.GenerateRequest) -> music_pb2.GenerateRequest:
    """A request with what flags say in the place of what it said."""
    merged = music_pb2.GenerateRequest()
    merged.CopyFrom(request)
    for old, new, name in (
        (merged, given, "seeds"),
        (merged, given, "adapters"),
        (merged.sampling, given.sampling, "oss_steps"),
    ):
        if getattr(new, name):
            old.ClearField(name)
    merged.MergeFrom(given)
    return merged


@asynccontextmanager
async def placed_source(
    client: AsyncClient, recipe: Recipe, request: music_pb2.GenerateRequest, given: str | None, exact: bool = False
) -> AsyncIterator[None]:
    """A block in which the request has its source; the server may still lack it.

    Args:
        client: Of the server.
        recipe: Of the song.
        request: Made from it.
        given: What --from says: a file, or what the server has.
        exact: Only the very file will do.
    Raises:
        CommandFailed: There is no source; the message says which one is needed.
    """
    name = recipe.source_name
    if not name and given is not None:
        raise CommandFailed("--from: this song was made from nothing but its prompt", ExitCode.USAGE)
    if given is None and name and not recipe.is_stored:
        given = name  # a path of whoever wrote the file; often it is still there
    if given is not None:
        set_source(request, await _stored(client, recipe, given, exact))
    try:
        yield
    except NotFound as error:
        if given is None and error.name == name:
            raise CommandFailed(f"this server has no {name}: {_wanted(name)}") from error
        raise


async def _stored(client: AsyncClient, recipe: Recipe, given: str, exact: bool) -> str:
    path = Path(given)
    if not path.is_file():
        if given.startswith(("assets/", "operations/")):
            return given
        raise CommandFailed(f"{given}: no such file; {_wanted(recipe.source_name)}", ExitCode.USAGE)
    digest = recipe.source_name.removeprefix("assets/")
    if exact and digest != recipe.source_name and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise CommandFailed(f"--from {given} is another file; {_wanted(recipe.source_name)}", ExitCode.USAGE)
    return (await client.upload(path)).name


def _wanted(name: str) -> str:
    """What would help."""
    if name.startswith("assets/"):
        return f"the song was made from the file with SHA-256 {name.removeprefix('assets/')}: give it by --from"
    if name.startswith("operations/"):
        return f"the song was made from {name}, a song that its server kept: call that server, or give the file by --from"
    return f"the song was made from {name}: give that file by --from"
