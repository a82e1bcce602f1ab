"""Why a download failed, in words, and whether waiting may help. Runs inside the image, beside hub_fetch.py."""

from __future__ import annotations

import errno
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.errors as hub

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
GATED = (
    "%s is gated: accept its terms on its page of the hub, then put a token of yours on the cluster "
    "(~/.cache/huggingface/token, mode 0600) or as HF_TOKEN into .env here"
)
GATED_TO_TOKEN = "%s is gated, and your token does not open it: accept its terms on its page of the hub, then try again"
UNKNOWN = "the hub knows no model %s; check the spelling (org/name)"
UNKNOWN_OR_PRIVATE = UNKNOWN + ", or give a token if it is private (HF_TOKEN in .env)"


class Failed(Exception):
    """Ends the download; the message is the sentence for people. passing: trying again may help."""

    def __init__(self, kind: str, sentence: str, passing: bool = False) -> None:
        self.kind, self.passing = kind, passing
        super().__init__(sentence)


def in_words(exc: BaseException, model: str, request: dict[str, Any]) -> Failed:
    """The sentence for whatever was raised."""
    if isinstance(exc, Failed):
        return exc
    if isinstance(exc, hub.GatedRepoError):
        return Failed("gated", (GATED_TO_TOKEN if request["token"] else GATED) % model)
    if isinstance(exc, hub.RevisionNotFoundError):
        words = "%s has no revision %s; leave --revision out for its newest, or name a branch, tag or commit"
        return Failed("unknown_revision", words % (model, request["revision"]))
    if isinstance(exc, hub.RepositoryNotFoundError):
        return Failed("unknown_model", (UNKNOWN if request["token"] else UNKNOWN_OR_PRIVATE) % model)
    if isinstance(exc, hub.HfHubHTTPError):
        return _answered(exc, model, request)
    if isinstance(exc, OSError) and exc.errno is not None:
        return _disk(exc, request)
    if _is_network(exc):
        place = urlsplit(request["endpoint"]).netloc
        words = "the connection to the hub (%s) failed: %s; `bouchet download %s` goes on where it stopped"
        return Failed("network", words % (place, _said(exc), model), passing=True)
    return Failed("bug", "it failed in a way nobody foresaw (%s: %s)" % (type(exc).__name__, _said(exc)))


def _answered(exc: hub.HfHubHTTPError, model: str, request: dict[str, Any]) -> Failed:
    """The hub answered, and it was no success."""
    status = exc.response.status_code
    if status == 401:
        return Failed("bad_token", "the hub refuses your token; make a new one and put it where the old one is")
    # an address of a content network is good for a while only
    is_hub = str(exc.response.url).startswith(request["endpoint"])
    if status in (408, 429) or status >= 500 or (status in (401, 403) and not is_hub):
        words = "the hub answers %d; `bouchet download %s` goes on where it stopped"
        return Failed("network", words % (status, model), passing=True)
    if status == 403:
        return Failed("forbidden", "your token may not read %s; it needs the right to read gated models" % model)
    return Failed("refused", "the hub answers %d: %s" % (status, _said(exc)))


def _disk(exc: OSError, request: dict[str, Any]) -> Failed:
    if exc.errno in NO_ROOM:
        whose = "your quota is used up" if exc.errno == errno.EDQUOT else "the disk is full"
        words = "%s in %s; make room there, then `bouchet download %s` goes on where it stopped"
        return Failed("no_space", words % (whose, request["models_dir"], request["model"]))
    place = exc.filename or request["models_dir"]
    return Failed("disk", "cannot write %s: %s" % (place, exc.strerror or exc))


def _is_network(exc: BaseException) -> bool:
    """Errors of the HTTP library, whose name changed between versions, and a file that came too short."""
    library = type(exc).__module__.split(".")[0]
    return (
        library.startswith("httpx") or library in ("requests", "urllib3") or isinstance(exc, (OSError, RecursionError))
    )


def _said(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[0] if lines else type(exc).__name__)[:300]
