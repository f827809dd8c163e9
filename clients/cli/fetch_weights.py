"""`acestep fetch-weights`: the official checkpoint into a folder. The only code of this project that reaches out.

The weights come from the hub, at one commit; the lyric vocabulary, which the hub repository lacks, from the authors' source repository.
Every file is checked against a digest: for the weights the hub's own (SHA-256 of large files, the git blob hash of small ones), for the
vocabulary a constant. A manifest in the folder keeps commit and SHA-256 of every file, so that the folder can be verified later without a
network.

Nothing that would have to be unpickled is fetched.
"""

import argparse
import hashlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from clients.cli.failures import CommandFailed, ExitCode, missing_extra

REPOSITORY = "ACE-Step/ACE-Step-v1-3.5B"
REVISION = "82cd0d7b6322bd28cd4e830fe675ddb6180ce36c"
FOLDERS = ("ace_step_transformer", "umt5-base", "music_dcae_f8c8", "music_vocoder")
SUFFIXES = (".safetensors", ".json", ".model")  # .model: SentencePiece
MANIFEST = "manifest.json"
LYRIC_VOCABULARY = "lyric_vocab.json"
LYRIC_VOCABULARY_URL = "https://raw.githubusercontent.com/ace-step/ACE-Step/main/acestep/models/lyrics_utils/vocab.json"
# Of the file with \n line ends. Copies with \r\n are about; they are the same vocabulary and are stored with \n.
LYRIC_VOCABULARY_SHA256 = "c2a66ea48c478c0bb9acb5497144b926acdeaa37128faa799508d40f2b9cc558"
_MAX_VOCABULARY_BYTES = 16 * 1024**2
_READ_BYTES = 1024**2

_DESCRIPTION = """\
Download the official checkpoint (about 8 GB) into a folder, or verify one.

An interrupted download goes on where it stopped when the command is run again. Every file is checked
against its digest; a file that fails is removed. The folder gets a manifest.json with the commit and the
SHA-256 of every file; --verify checks a folder against it without a network.
"""


@dataclass(frozen=True)
class _HubFile:
    """A file of the repository and the digest that the hub states for it."""

    path: str
    size: int
    algorithm: str
    digest: str


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "fetch-weights",
        help="download the official checkpoint",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("checkpoints/official"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--repo", default=REPOSITORY, help="hub repository (default: %(default)s)")
    parser.add_argument("--revision", default=REVISION, help="commit, tag or branch (default: %(default)s)")
    parser.add_argument("--endpoint", default=None, metavar="URL", help="the hub (default: $HF_ENDPOINT or https://huggingface.co)")
    parser.add_argument("--lyric-vocab-url", default=LYRIC_VOCABULARY_URL, metavar="URL", help="(default: %(default)s)")
    parser.add_argument("--verify", action="store_true", help="only check the folder against its manifest")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Fetch what is missing, check everything."""
    try:
        if not args.verify:
            fetch(args.output, args.repo, args.revision, args.endpoint, args.lyric_vocab_url)
        manifest = verify(args.output)
    except OSError as error:
        raise CommandFailed(f"{error}: run the command again to go on") from error
    print(f"{manifest['repository']} at {manifest['revision']}: {len(manifest['sha256'])} files verified", file=sys.stderr)
    print(args.output)


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file of a folder with its manifest.

    Returns:
        The manifest: repository, revision, sha256 by path.
    Raises:
        CommandFailed: No manifest, or files that are missing or differ.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CommandFailed(f"{path} does not exist: nothing to verify", ExitCode.USAGE)
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    bad = []
    for name, expected in sorted(manifest["sha256"].items()):
        file = folder / name
        if not file.is_file():
            bad.append(f"{file}: missing")
        elif (actual := _digest(file, "sha256")) != expected:
            bad.append(f"{file}: SHA-256 is {actual}, expected {expected}")
    if bad:
        raise CommandFailed("\n".join(["verification failed:", *bad]))
    return manifest


def fetch(folder: Path, repository: str, revision: str, endpoint: str | None, lyric_vocabulary_url: str) -> None:
    """Download what the folder lacks and write its manifest.

    Raises:
        CommandFailed: The repository is not in the official layout, a digest differs, or the network fails.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that this version of the hub's library uses
    except ModuleNotFoundError as error:
        raise missing_extra(error, "cli") from error
    api = HfApi(endpoint=endpoint, library_name="acestep-serving")
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True)
        commit = info.sha
        if commit is None:
            raise CommandFailed(f"the hub names no commit for {repository} at {revision}")
        files = _select(info.siblings or [])
        _check_layout([file.path for file in files], repository)
        for file in files:
            _fetch_file(api, repository, commit, file, folder / file.path)
    except HTTPError as error:
        raise CommandFailed(f"{repository} at {revision}: {error}") from error
    _fetch_lyric_vocabulary(lyric_vocabulary_url, folder / LYRIC_VOCABULARY)
    names = [file.path for file in files] + [LYRIC_VOCABULARY]
    manifest = {"repository": repository, "revision": commit, "sha256": {name: _digest(folder / name, "sha256") for name in names}}
    partial = folder / f".{MANIFEST}.part"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)


def _select(siblings: Sequence[Any]) -> list[_HubFile]:
    files = []
    for sibling in siblings:
        path = PurePosixPath(sibling.rfilename)
        if len(path.parts) != 2 or path.parts[0] not in FOLDERS or path.suffix not in SUFFIXES:
            continue
        if sibling.lfs is not None:
            files.append(_HubFile(str(path), sibling.lfs.size, "sha256", sibling.lfs.sha256))
        elif sibling.blob_id is not None and sibling.size is not None:
            files.append(_HubFile(str(path), sibling.size, "git", sibling.blob_id))
        else:
            raise CommandFailed(f"the hub states no digest for {path}")
    return files


def _check_layout(paths: Sequence[str], repository: str) -> None:
    for folder in FOLDERS:
        has_weights = any(path.startswith(f"{folder}/") and path.endswith(".safetensors") for path in paths)
        if f"{folder}/config.json" not in paths or not has_weights:
            raise CommandFailed(f"{repository} is not in the official layout: {folder}/ lacks config.json or safetensors")


def _fetch_file(api: Any, repository: str, commit: str, file: _HubFile, target: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if target.is_file() and _digest(target, file.algorithm) == file.digest:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Named by content: the rest of another revision's download is never appended to.
    partial = target.with_name(f".{target.name}.{file.digest[:16]}.part")
    if partial.is_file() and partial.stat().st_size > file.size:
        partial.unlink()
    url = hf_hub_url(repository, file.path, revision=commit, endpoint=api.endpoint)
    # hf_hub_download keeps nothing of an interrupted download; its building block takes up a partial file.
    with partial.open("ab") as output:
        http_get(
            url,
            output,
            resume_size=output.tell(),
            headers=build_hf_headers(library_name="acestep-serving") | {"Accept-Encoding": "identity"},
            expected_size=file.size,
            displayed_filename=file.path,
        )
    if (actual := _digest(partial, file.algorithm)) != file.digest:
        partial.unlink()
        raise CommandFailed(f"{target}: {file.algorithm} digest of the download is {actual}, the hub states {file.digest}; it was removed")
    partial.replace(target)


def _fetch_lyric_vocabulary(url: str, target: Path) -> None:
    if target.is_file() and _digest(target, "sha256") == LYRIC_VOCABULARY_SHA256:
        return
    if not url.startswith(("https://", "http://")):
        raise CommandFailed(f"--lyric-vocab-url {url!r} is not an http(s) URL", ExitCode.USAGE)
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310  # the scheme is checked above
            data: bytes = response.read(_MAX_VOCABULARY_BYTES).replace(b"\r\n", b"\n")
    except urllib.error.URLError as error:
        raise CommandFailed(f"{url}: {error}") from error
    if (actual := hashlib.sha256(data).hexdigest()) != LYRIC_VOCABULARY_SHA256:
        raise CommandFailed(f"{url}: SHA-256 of the lyric vocabulary is {actual}, expected {LYRIC_VOCABULARY_SHA256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    partial.write_bytes(data)
    partial.replace(target)


def _digest(path: Path, algorithm: str) -> str:
    """SHA-256 of a file, or its git blob hash for "git"."""
    digest = hashlib.sha256()
    if algorithm == "git":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
