"""torch tensors on the wire. Imported by the stages only: the orchestrator passes Tensor messages on unopened."""

import math
import sys
from collections.abc import Sequence

import torch

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import tensor_pb2

_TO_DTYPE = {
    tensor_pb2.DATA_TYPE_FLOAT32: torch.float32,
    tensor_pb2.DATA_TYPE_BFLOAT16: torch.bfloat16,
    tensor_pb2.DATA_TYPE_FLOAT16: torch.float16,
    tensor_pb2.DATA_TYPE_INT64: torch.int64,
    tensor_pb2.DATA_TYPE_BOOL: torch.bool,
}
_FROM_DTYPE = {dtype: data_type for data_type, dtype in _TO_DTYPE.items()}

assert sys.byteorder == "little", "the wire format is little-endian"


def pack(tensor: torch.Tensor) -> tensor_pb2.Tensor:
    """Copy a tensor of any device into a message."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor_pb2.Tensor(
        data_type=_FROM_DTYPE[tensor.dtype],
        shape=list(tensor.shape),
        data=flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"",
    )


def unpack(message: tensor_pb2.Tensor, field: str, dtypes: Sequence[torch.dtype], shape: Sequence[int | None]) -> torch.Tensor:
    """Copy a message into a CPU tensor.

    Args:
        message: From the wire.
        field: Its path in the request, for the error.
        dtypes: Accepted element types.
        shape: Expected sizes; None accepts any size in that place.
    Returns:
        A CPU tensor that owns its memory.
    Raises:
        InvalidRequest: Type, rank, a size or the number of bytes is wrong, or a floating-point value is not finite.
    """
    dtype = _TO_DTYPE.get(message.data_type)
    if dtype is None or dtype not in dtypes:
        allowed = ", ".join(str(accepted).removeprefix("torch.") for accepted in dtypes)
        raise InvalidRequest(f"{field}.data_type", message.data_type, allowed)
    sizes = list(message.shape)
    expected = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
    if (
        len(sizes) != len(shape)
        or any(size < 0 for size in sizes)
        or any(want is not None and size != want for size, want in zip(sizes, shape, strict=True))
    ):
        raise InvalidRequest(f"{field}.shape", sizes, expected)
    num_bytes = math.prod(sizes) * dtype.itemsize
    if len(message.data) != num_bytes:
        raise InvalidRequest(f"{field}.data", f"{len(message.data)} bytes", f"{num_bytes} bytes for shape {sizes}")
    if num_bytes == 0:
        return torch.empty(sizes, dtype=dtype)
    tensor = torch.frombuffer(bytearray(message.data), dtype=dtype).reshape(sizes)
    if dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        raise InvalidRequest(f"{field}.data", "NaN or infinity", "finite values")
    return tensor
