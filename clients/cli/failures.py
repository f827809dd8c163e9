"""What goes wrong, as an exit code and as text for a terminal."""

from enum import IntEnum

from acestep_rpc.errors import (
    AcestepError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    StageUnavailable,
    Unauthenticated,
)


class ExitCode(IntEnum):
    """Exit codes of every `acestep` command; scripts may rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    OVERLOADED = 4
    DEADLINE = 5
    DENIED = 6
    DIFFERENT = 7
    INTERRUPTED = 130
    NOT_READ = 141


EXIT_CODES_HELP = """\
exit codes:
  0    done
  1    any other failure
  2    bad usage, or a request that the server refused as invalid
  3    the server cannot be reached, or has no replica of a stage
  4    the server is overloaded, or the quota is used up: try again later
  5    the deadline of --timeout passed
  6    the server wants other credentials
  7    replay: the song is not the same; batch: some songs failed; doctor: something needs attention
  130  interrupted by Ctrl-C or SIGTERM
  141  whoever read the output, as head does, had enough
"""


class CommandFailed(Exception):
    """A command cannot go on; the message is for the user."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        self.exit_code = exit_code
        super().__init__(message)


def exit_code(error: AcestepError) -> ExitCode:
    """The exit code of an error that a server sent."""
    match error:
        case InvalidRequest():
            return ExitCode.USAGE
        case StageUnavailable():
            return ExitCode.UNAVAILABLE
        case Unauthenticated() | PermissionDenied():
            return ExitCode.DENIED
        case Overloaded() | QuotaExceeded():
            return ExitCode.OVERLOADED
        case DeadlineExceeded():
            return ExitCode.DEADLINE
        case _:
            return ExitCode.FAILED


def missing_extra(error: ModuleNotFoundError, extra: str) -> CommandFailed:
    """The failure that tells which extra of the distribution brings a module."""
    return CommandFailed(f"the Python package {error.name!r} is not installed; run: pip install 'acestep-serving[{extra}]'")
