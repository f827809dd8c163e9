"""Language libraries, imported when the first line needs them: pinyin alone takes half a second."""

import importlib
from types import ModuleType

EXTRA = "acestep-serving[lyrics]"


class MissingLibrary(RuntimeError):
    """A language cannot be read because a library is not installed; the message names the extra that has it."""


def load(module: str, purpose: str) -> ModuleType:
    """Import a module.

    Args:
        module: Its full name.
        purpose: What needs it, for the message.
    Raises:
        MissingLibrary: It, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingLibrary(f"{purpose} needs the library {error.name}, which is not installed: pip install '{EXTRA}'") from error
