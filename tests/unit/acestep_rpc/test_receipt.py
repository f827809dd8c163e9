import json

from google.protobuf import struct_pb2

from acestep_rpc.receipt import to_dict, to_json


def test_whole_numbers_are_whole_at_any_depth() -> None:
    receipt = struct_pb2.Struct()
    receipt.update({"seed": 2**32 - 1, "scale": 1.5, "erg": True, "steps": [16, 29.5], "timecosts": {"diffusion": 2.0}, "lora": "none"})
    plain = to_dict(receipt)
    assert plain == {"seed": 2**32 - 1, "scale": 1.5, "erg": True, "steps": [16, 29.5], "timecosts": {"diffusion": 2}, "lora": "none"}
    assert "." not in repr(plain["seed"])
    assert plain["erg"] is True


def test_the_text_is_one_line_of_ascii_in_a_fixed_order() -> None:
    receipt = struct_pb2.Struct()
    receipt.update({"b": "Füße\n日本", "a": 1})
    assert to_json(receipt) == r'{"a":1,"b":"F\u00fc\u00dfe\n\u65e5\u672c"}'
    assert json.loads(to_json(receipt)) == to_dict(receipt)
