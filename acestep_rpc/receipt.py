"""Receipts as plain data: the same beside the file, inside it and on the screen."""

import json
from typing import Any

from google.protobuf import json_format, struct_pb2


def to_dict(receipt: struct_pb2.Struct) -> dict[str, Any]:
    """Plain Python, whole numbers as int (a Struct knows only doubles), names in alphabetical order."""
    plain: dict[str, Any] = _whole(json_format.MessageToDict(receipt))
    return plain


def to_json(receipt: struct_pb2.Struct) -> str:
    """One line of JSON in ASCII: tags of audio files, ID3 foremost, are read under more than one encoding."""
    return json.dumps(to_dict(receipt), separators=(",", ":"))


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
