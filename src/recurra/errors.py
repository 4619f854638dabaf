"""The errors a user of the library can meet. Each message names the argument, what came, and what was expected."""


class RecurraError(Exception):
    """Base of every error raised on purpose; the command line prints it and exits with code 2."""


class InputError(RecurraError, ValueError):
    """An argument, a file or a `step` is not what the contract asks for."""


class EngineRefused(RecurraError, ValueError):
    """An engine was asked for by name and cannot run this recurrence; the message says why."""
