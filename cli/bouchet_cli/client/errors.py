"""Why a command could not do its work.

    CommandError          exit status 1   it was tried and did not work
    ├── UsageError        exit status 2   the command line makes no sense
    ├── NotReadyError     exit status 3   nothing runs, or not yet
    └── UnreachableError  exit status 4   the local stack does not answer

The message is one line and says what to do next.
"""


class CommandError(Exception):
    """Ends the command. `kind` is the API's word for the problem, empty when the API said nothing."""

    exit_status = 1

    def __init__(self, message: str, kind: str = "") -> None:
        self.kind = kind
        super().__init__(message)


class UsageError(CommandError):
    """The command line asks for nothing that can be done."""

    exit_status = 2


class NotReadyError(CommandError):
    """No deployment, or none that is ready."""

    exit_status = 3


class UnreachableError(CommandError):
    """API or proxy of this machine do not answer, or there is no key to ask with."""

    exit_status = 4
