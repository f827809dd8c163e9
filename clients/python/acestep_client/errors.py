"""What goes wrong: the server's errors (acestep_rpc/errors.py) under one roof with the client's own."""

from acestep_rpc.errors import (
    AcestepError,
    AlreadyExists,
    AttemptsExhausted,
    DeadlineExceeded,
    InvalidRequest,
    NotFinished,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RequestCancelled,
    ShapeTooLarge,
    StageError,
    StageUnavailable,
    Unauthenticated,
    Unimplemented,
)

__all__ = [
    "AcestepError",
    "AlreadyExists",
    "AttemptsExhausted",
    "BrokenTransfer",
    "DeadlineExceeded",
    "InvalidRequest",
    "NotFinished",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "QuotaExceeded",
    "RequestCancelled",
    "ShapeTooLarge",
    "StageError",
    "StageUnavailable",
    "Unauthenticated",
    "Unimplemented",
]


class BrokenTransfer(Exception):
    """What arrived is not what the server announced: bytes are missing, or their digest is another."""
