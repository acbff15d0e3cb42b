"""The errors a command turns into an exit code: one sentence saying what is wrong, where, and what to do."""


class DupletError(Exception):
    """A failure of ours; exit 1, with the traceback in the log file."""

    exit_code = 1


class InputError(DupletError):
    """The person's input, data or configuration is wrong; exit 2, no traceback."""

    exit_code = 2


class GateError(DupletError):
    """The work ran and a quality gate refused the result; exit 3."""

    exit_code = 3


class TryAgain(DupletError):
    """Interrupted or busy: the same command later goes on from here; exit 75."""

    exit_code = 75
