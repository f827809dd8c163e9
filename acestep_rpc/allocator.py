"""What the C library's allocator keeps of what a server frees.

glibc keeps freed blocks for later, in heaps of several threads, between others that are still in use: a server's memory would depend on the
order in which songs of different lengths came and went. Servers use few heaps, and give what is free in them back now and then. To give
back every large block at once would need a new one for each tensor: decoding took three times as long so on a CPU.
"""

import asyncio
import ctypes
import os
from typing import NoReturn

ARENAS = 2
TRIM_SECONDS = 10.0
_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def _function(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None)


def use_few_arenas() -> bool:
    """Set the allocator up, before threads start.

    Returns:
        False where the C library has no such setting, or where `MALLOC_ARENA_MAX` or `GLIBC_TUNABLES` has it already.
    """
    mallopt = _function("mallopt")
    if mallopt is None or "MALLOC_ARENA_MAX" in os.environ or "GLIBC_TUNABLES" in os.environ:
        return False
    return bool(mallopt(_ARENA_MAX, ARENAS))


async def trim_regularly(seconds: float = TRIM_SECONDS) -> NoReturn:
    """Give free memory back every so many seconds, until cancelled; the pages come again with the next song."""
    trim = _function("malloc_trim")
    while True:
        await asyncio.sleep(seconds)
        if trim is not None:
            await asyncio.to_thread(trim, 0)
