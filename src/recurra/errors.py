"""The errors a user of the library can meet. Each message names the argument, what came, and what was expected."""


class RecurraError(Exception):
    """Base of every error raised on purpose; the command line prints it and exits with code 2."""


class InputError(RecurraError, ValueError):
    """An argument, a file or a `step` is not what the contract asks for."""


class EngineRefused(RecurraError, ValueError, NotImplementedError):
    """An engine was asked for by name and cannot run this recurrence; the message says why."""


def one_line(error: BaseException) -> str:
    """What an error of Python or of another library says, in one line that is not too long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = f"there is no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return text[:200] or type(error).__name__
