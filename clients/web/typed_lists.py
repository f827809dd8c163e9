"""Lists that people type."""

from acestep_rpc.errors import InvalidRequest


def whole_numbers(field: str, text: str) -> list[int]:
    """Numbers separated by commas, semicolons or spaces; nothing: none.

    Raises:
        InvalidRequest: Something else is there.
    """
    parts = (text or "").replace(",", " ").replace(";", " ").split()
    if not all(part.isascii() and part.isdigit() and int(part) < 2**64 for part in parts):
        raise InvalidRequest(field, text, "whole numbers from 0 on, separated by commas")
    return [int(part) for part in parts]


def time_ranges(field: str, text: str) -> list[tuple[float, float]]:
    """Ranges as "10-14.5, 20-24" in seconds.

    Raises:
        InvalidRequest: Something else is there.
    """
    found = []
    for part in filter(None, (part.strip() for part in (text or "").replace(";", ",").split(","))):
        start, dash, end = part.partition("-")
        try:
            found.append((float(start), float(end)))
        except ValueError:
            dash = ""
        if not dash:
            raise InvalidRequest(field, text, 'ranges in seconds, as "10-14.5, 20-24"')
    return found


def adapter_list(field: str, text: str) -> list[tuple[str, float]]:
    """Adapters as "rap:0.8, choir" with their scales, 1 where none is given.

    Raises:
        InvalidRequest: A scale is no number.
    """
    found = []
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        name, colon, scale = part.partition(":")
        try:
            found.append((name.strip(), float(scale) if colon else 1.0))
        except ValueError:
            raise InvalidRequest(field, text, 'names with scales, as "rap:0.8, choir"') from None
    return found
