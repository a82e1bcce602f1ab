"""Failures that only the gateway tells apart; outside they are the kinds of bouchet_core.errors."""

from bouchet_core.errors import NODE_REFUSED, ClusterUnavailableError, GatewayError, HumanNeededError, RemoteFileError


class HostKeyRefusedError(HumanNeededError):
    """The server's host key is unknown, or not the one that is known."""


class LoginRefusedError(HumanNeededError):
    """The server did not accept the login. Trying again quickly may lock the account."""


class PromptUnansweredError(HumanNeededError):
    """The server asked, and nobody answered in time."""


class NoTargetError(ClusterUnavailableError):
    """Nothing runs behind this slot now."""

    kind = "no_target"


class NodeRefusedError(RemoteFileError):
    """A compute node let us not in (`via: node`): its sshd's word, its host key, or no answer."""

    kind = NODE_REFUSED


class BadRequestError(GatewayError):
    """What was sent to the inside door cannot be used."""

    kind = "bad_request"
