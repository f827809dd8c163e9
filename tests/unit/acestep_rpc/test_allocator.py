"""Memory goes back to the system, whatever came after it."""

import os
import platform
import subprocess
import sys

import pytest

from acestep_rpc.allocator import use_few_arenas

PROGRAM = """
import asyncio, contextlib
from pathlib import Path
from acestep_rpc.allocator import trim_regularly

def resident_megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

for megabytes in (2, 20):  # the first that are freed tell glibc that such blocks come often
    kept = bytearray(megabytes << 20)
    del kept
before = resident_megabytes()
blocks, others = [], []
for _ in range(30):
    blocks.append(bytearray(b"x") * (4 << 20))
    others.append(bytearray(b"x") * (200 << 10))
blocks.clear()
kept = resident_megabytes() - before

async def trim():
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(trim_regularly(0.01), 1)

asyncio.run(trim())
print(round(kept), round(resident_megabytes() - before - sum(map(len, others)) / 1e6))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no mallopt")


def test_freed_blocks_between_others_go_back() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    kept, left = map(int, subprocess.check_output([sys.executable, "-c", PROGRAM], env=environment, text=True).split())
    assert kept > 80  # what this is about: 30 blocks of 4 MiB stay
    assert left < 20


@pytest.mark.parametrize("setting", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_operator_s_settings_stand(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv(setting, "")
    assert not use_few_arenas()
