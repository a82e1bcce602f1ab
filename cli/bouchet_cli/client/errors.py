"""Reasons why a command fails, each with its exit status.

    CommandError                  exit status 1   the command was tried and failed
    ├── UsageError                exit status 2   the command line is wrong
    ├── NotReadyError             exit status 3   nothing of that name, or it is not ready
    └── UnreachableError          exit status 4   the local stack does not answer, or there is no key
        ├── ConnectionFailedError                 no connection: the request was not received
        └── ResponseLostError                     the connection ended early: the request may have been received

A message is one line that ends with the next step.
"""


class CommandError(Exception):
    """Ends the command. `kind` is the problem's kind in the API's answer, empty when the API did not send one."""

    exit_status = 1

    def __init__(self, message: str, kind: str = "") -> None:
        self.kind = kind
        super().__init__(message)


class UsageError(CommandError):
    """The command line is wrong."""

    exit_status = 2


class NotReadyError(CommandError):
    """What the command needs is not there: no deployment, model, image or key of that name, or it is not ready."""

    exit_status = 3


class UnreachableError(CommandError):
    """The API or the proxy on this machine does not answer, or there is no key for it."""

    exit_status = 4


class ConnectionFailedError(UnreachableError):
    """No connection could be opened, so the request was not received."""


class ResponseLostError(UnreachableError):
    """The connection ended or timed out before the answer was complete; the request may have been received."""
