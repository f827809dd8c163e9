"""Pages under reference/, written while mkdocs builds: from the comments in protos/ and the docstrings in settings.py."""

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "reference/api.md": ("Public API", ("music", "sampling", "lyrics", "adapter")),
    "reference/stages.md": ("Stages", ("encoder", "diffusion", "vae", "stage", "tensor")),
}
SERVICES = ("orchestrator", "encoder_svc", "diffusion_svc", "vae_svc")
SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()}

# numbers of descriptor.proto, of which the paths of source_code_info are made
MESSAGES, ENUMS, FILE_SERVICES, FIELDS, NESTED, METHODS, VALUES = 4, 5, 6, 2, 3, 2, 2


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    image = read_image()
    for path, (title, names) in PAGES.items():
        files.append(
            File.generated(config, path, content=api_page(title, [image[f"acestep_rpc/v1/{name}.proto"] for name in names], image))
        )
    files.append(File.generated(config, "reference/settings.md", content=settings_page()))
    return files


def read_image() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Compile protos/ with comments; descriptors by file name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.binpb"
        command = [sys.executable, str(ROOT / "protos" / "generate.py"), "--out", folder, "--image", str(path)]
        subprocess.run(command, check=True)
        return {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file}


def api_page(
    title: str, files: Sequence[descriptor_pb2.FileDescriptorProto], image: Mapping[str, descriptor_pb2.FileDescriptorProto]
) -> str:
    """Markdown of some files: services first, then messages and enums, by name."""
    parts = [f"# {title}", "Package `acestep_rpc.v1`. Scalars that say `optional` have a default: unset differs from 0."]
    pages = {file: Path(path).name for path, (_, names) in PAGES.items() for name in names for file in [f"acestep_rpc/v1/{name}.proto"]}
    links = {
        f".{file.package}.{kind.name}": f"{pages[file.name]}#{kind.name.lower()}"
        for file in image.values()
        if file.name in pages
        for kind in [*file.message_type, *file.enum_type]
    }
    here = pages[files[0].name]
    links = {name: link.removeprefix(here) for name, link in links.items()}
    for file in files:
        comments = _comments(file)
        for index, service in enumerate(file.service):
            parts += _service(service, (FILE_SERVICES, index), comments, links)
    kinds: list[tuple[str, list[str]]] = []
    for file in files:
        comments = _comments(file)
        kinds += [(message.name, _message(message, (MESSAGES, i), comments, links)) for i, message in enumerate(file.message_type)]
        kinds += [(enum.name, _enum(enum, (ENUMS, i), comments)) for i, enum in enumerate(file.enum_type)]
    for _, text in sorted(kinds):
        parts += text
    return "\n\n".join(parts) + "\n"


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {
        tuple(location.path): " ".join(f"{location.leading_comments} {location.trailing_comments}".split())
        for location in file.source_code_info.location
    }


def _service(
    service: descriptor_pb2.ServiceDescriptorProto, path: tuple[int, ...], comments: Mapping[tuple[int, ...], str], links: Mapping[str, str]
) -> list[str]:
    parts = [f"## {service.name}", comments[path]]
    for index, method in enumerate(service.method):
        takes = ("stream " if method.client_streaming else "") + _link(method.input_type, links)
        gives = ("stream " if method.server_streaming else "") + _link(method.output_type, links)
        parts += [f"### {service.name}.{method.name}", f"{takes} → {gives}", comments[(*path, METHODS, index)]]
        rule = method.options.Extensions[annotations_pb2.http]
        bindings = [rule, *rule.additional_bindings] if rule.WhichOneof("pattern") else []
        parts += [f"HTTP: `{verb.upper()} {getattr(binding, verb)}`" for binding in bindings for verb in [binding.WhichOneof("pattern")]]
    return parts


def _message(
    message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], comments: Mapping[tuple[int, ...], str], links: Mapping[str, str]
) -> list[str]:
    parts = [f"## {message.name}", comments[path]]
    maps = {f".acestep_rpc.v1.{message.name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    rows = []
    for index, field in enumerate(message.field):
        if field.type_name in maps:
            key, value = maps[field.type_name].field
            kind = f"map of {SCALARS[key.type]} to {_kind(value, links)}"
        else:
            kind = ("repeated " if field.label == field.LABEL_REPEATED else "") + _kind(field, links)
        kind = f"optional {kind}" if field.proto3_optional else kind
        if field.HasField("oneof_index") and not field.proto3_optional:
            kind += f", one of `{message.oneof_decl[field.oneof_index].name}`"
        rows.append((f"`{field.name}`", kind, comments.get((*path, FIELDS, index), "")))
    return parts + ([_table(("field", "type", "meaning"), rows)] if rows else [])


def _enum(enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], comments: Mapping[tuple[int, ...], str]) -> list[str]:
    rows = [(f"`{value.name}`", comments.get((*path, VALUES, index), "")) for index, value in enumerate(enum.value)]
    return [f"## {enum.name}", comments[path], _table(("value", "meaning"), rows)]


def _kind(field: descriptor_pb2.FieldDescriptorProto, links: Mapping[str, str]) -> str:
    return _link(field.type_name, links) if field.type_name else SCALARS[field.type]


def _link(name: str, links: Mapping[str, str]) -> str:
    short = name.removeprefix(".acestep_rpc.v1.").removeprefix(".")
    return f"[{short}]({links[name]})" if name in links else f"`{short}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in [" | ".join(head), " | ".join("---" for _ in head), *lines])


def settings_page() -> str:
    """Every setting of every service, with the docstring that stands under its field."""
    parts = [
        "# Settings",
        "Environment variables. Most are flags of `acestep serve` too, without the prefix in lower case: `ACESTEP_VAE_PORT` is `--port`. "
        "An unknown name under a prefix, or a bad value, stops the start.",
    ]
    server = importlib.import_module("acestep_rpc.settings").ServerSettings
    common = {field.name for field in dataclasses.fields(server)}
    parts += ["## Every server", _table(("setting `ACESTEP_<SERVICE>_...`", "default", "meaning"), list(_settings(server, common)))]
    for name in SERVICES:
        module = importlib.import_module(f"{name}.settings")
        own = {field.name for field in dataclasses.fields(module.Settings)} - common
        rows = list(_settings(module.Settings, own))
        parts += [f"## {name.removesuffix('_svc')}", _table((f"setting `{module.PREFIX}...`", "default", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def _settings(settings: type[Any], names: set[str]) -> Iterator[tuple[str, str, str]]:
    meanings = _field_docs(settings)
    for field in dataclasses.fields(settings):
        if field.name in names:
            default = "required" if field.default is dataclasses.MISSING else _shown(field.default)
            yield f"`{field.name.upper()}`", default, meanings[field.name]


def _shown(default: Any) -> str:
    if default is None or default in ("", ()):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default:{'g' if isinstance(default, float) else ''}}`"


def _field_docs(settings: type[Any]) -> dict[str, str]:
    (body,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found
