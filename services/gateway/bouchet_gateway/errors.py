"""Errors that only the gateway distinguishes, and how errors are written as HTTP bodies."""

from __future__ import annotations

from typing import Any

from bouchet_core.errors import (
    NODE_REFUSED,
    BouchetError,
    ClusterUnavailableError,
    GatewayError,
    HumanNeededError,
    RemoteFileError,
)

# by kind; every other error of ours answers BAD_GATEWAY
HTTP_STATUS = {
    "tunnel_down": 503,
    "human_needed": 503,
    "cluster_unavailable": 503,
    "store": 503,
    "store_unavailable": 503,
    "store_refused": 500,
    "command_timeout": 504,
    "file_missing": 404,
    "not_allowed": 403,
    "remote_refused": 502,
    "stale_prompt": 409,
    "host_key_not_trusted": 409,
    "bad_request": 400,
    "unauthorized": 401,
}
BAD_GATEWAY = 502


class HostKeyRefusedError(HumanNeededError):
    """The server's host key is unknown, or differs from the known one."""


class LoginRefusedError(HumanNeededError):
    """The server did not accept the login. Trying again quickly may lock the account."""


class PromptUnansweredError(HumanNeededError):
    """A login prompt was open and got no answer in time."""


class NoTargetError(ClusterUnavailableError):
    """No job runs behind this slot now."""

    kind = "no_target"


class NodeRefusedError(RemoteFileError):
    """A compute node did not accept the login (`via: node`): refused by its sshd, host key not known, or no answer."""

    kind = NODE_REFUSED


class BadRequestError(GatewayError):
    """A request to the internal API is not valid."""

    kind = "bad_request"


class UnauthorizedError(BouchetError):
    """The bearer token is missing or wrong."""

    kind = "unauthorized"


def problem_document(status: int, kind: str, detail: str, title: str | None = None) -> dict[str, Any]:
    """Return the body of an error response: the fields of RFC 9457, and the error's `kind`."""
    return {
        "type": "about:blank",
        "title": title if title is not None else kind.replace("_", " "),
        "status": status,
        "detail": detail,
        "kind": kind,
    }
