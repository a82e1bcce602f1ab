"""Failures that only the gateway tells apart; outside they are the kinds of bouchet_core.errors."""

from bouchet_core.errors import NODE_REFUSED, CouldNotAsk, GatewayError, HumanNeeded, RemoteRefused


class HostKeyRefused(HumanNeeded):
    """The server's host key is unknown, or not the one that is known."""


class LoginRefused(HumanNeeded):
    """The server did not accept the login. Trying again quickly may lock the account."""


class PromptUnanswered(HumanNeeded):
    """The server asked, and nobody answered in time."""


class NoTarget(CouldNotAsk):
    """Nothing runs behind this slot now."""

    kind = "no_target"


class NodeRefused(RemoteRefused):
    """A compute node let us not in (`via: node`): its sshd's word, its host key, or no answer."""

    kind = NODE_REFUSED


class BadRequest(GatewayError):
    """What was sent to the inside door cannot be used."""

    kind = "bad_request"
