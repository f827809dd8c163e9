"""Ogg streams with a serial number of our choice. libsndfile draws one by the clock, and the same song would be another file each time."""

import functools
import struct

_POLYNOMIAL = 0x04C11DB7  # of Ogg's checksum: CRC-32, highest bit first, from 0, nothing added at the end
_SERIAL, _CHECKSUM, _NUM_SEGMENTS, _HEADER_BYTES = 14, 22, 26, 27  # offsets in a page (RFC 3533)


def with_serial(data: bytes | bytearray, serial: int) -> bytes:
    """The same stream under another serial number, checksums and all.

    Args:
        data: Whole pages of one stream.
        serial: 0 to 2^32 - 1.
    """
    pages, start = bytearray(data), 0
    while start < len(pages):
        assert pages[start : start + 4] == b"OggS", f"no Ogg page at byte {start}"
        num_segments = pages[start + _NUM_SEGMENTS]
        page_bytes = _HEADER_BYTES + num_segments + sum(pages[start + _HEADER_BYTES : start + _HEADER_BYTES + num_segments])
        # The checksum is linear: it changes by that of a page that is 0 but for the bits that change in the serial number.
        (change,) = struct.unpack(">I", struct.pack("<I", struct.unpack_from("<I", pages, start + _SERIAL)[0] ^ serial))
        (checksum,) = struct.unpack_from("<I", pages, start + _CHECKSUM)
        checksum ^= _times(change, _shift(page_bytes - _SERIAL))
        struct.pack_into("<I", pages, start + _SERIAL, serial)
        struct.pack_into("<I", pages, start + _CHECKSUM, checksum)
        start += page_bytes
    return bytes(pages)


def _times(left: int, right: int) -> int:
    """Product of two polynomials over GF(2), modulo that of the checksum."""
    product = 0
    for bit in range(31, -1, -1):
        product = (product << 1) ^ ((1 << 32 | _POLYNOMIAL) if product >> 31 else 0)
        if right >> bit & 1:
            product ^= left
    return product


@functools.cache
def _shift(num_bytes: int) -> int:
    """x^(8 num_bytes): what so many bytes behind a place do to its share of the checksum."""
    if num_bytes == 0:
        return 1
    half = _times(_shift(num_bytes // 2), _shift(num_bytes // 2))
    return _times(half, 1 << 8) if num_bytes % 2 else half
