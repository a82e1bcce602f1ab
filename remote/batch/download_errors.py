"""Why a download failed, for people, and whether a retry may help. Runs in the image, with hub_fetch.py."""

from __future__ import annotations

import errno
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.errors as hub
from batch_job import download_command

# seconds: the hub's window for counting requests, and the longest wait that is granted it
RATE_WINDOW_S = 300.0
MAX_WAIT_S = 900.0
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
GATED = (
    "%s is gated: accept its terms on its page on the hub, then put a token on the cluster "
    "(~/.cache/huggingface/token, mode 0600), or as HF_TOKEN into .env here"
)
GATED_WITH_TOKEN = "%s is gated, and your token has no access: accept its terms on its page on the hub, then try again"
UNKNOWN = "there is no model %s on the hub; check the spelling (org/name)"
UNKNOWN_OR_PRIVATE = UNKNOWN + ", or set a token if it is private (HF_TOKEN in .env)"
RESUME = "; run `%s` again to resume"


class DownloadError(Exception):
    """Ends the download; the message is for people. retryable: trying again may help, after wait_s seconds."""

    def __init__(self, kind: str, message: str, retryable: bool = False, wait_s: float = 0.0) -> None:
        self.kind, self.retryable, self.wait_s = kind, retryable, wait_s
        super().__init__(message)


def explain(exc: BaseException, model: str, request: dict[str, Any]) -> DownloadError:
    """Return the DownloadError for any exception."""
    if isinstance(exc, DownloadError):
        return exc
    if isinstance(exc, hub.GatedRepoError):
        return DownloadError("gated", (GATED_WITH_TOKEN if request["token"] else GATED) % model)
    if isinstance(exc, hub.RevisionNotFoundError):
        message = "%s has no revision %s; omit --revision for the newest, or name a branch, tag or commit"
        return DownloadError("unknown_revision", message % (model, request["revision"]))
    if isinstance(exc, hub.RepositoryNotFoundError):
        return DownloadError("unknown_model", (UNKNOWN if request["token"] else UNKNOWN_OR_PRIVATE) % model)
    if isinstance(exc, hub.HfHubHTTPError):
        return _explain_status(exc, model, request)
    if isinstance(exc, OSError) and exc.errno is not None:
        return _explain_disk_error(exc, request)
    if _is_network_error(exc):
        host = urlsplit(request["endpoint"]).netloc
        message = "the connection to the hub (%s) failed: %s" + RESUME
        return DownloadError("network", message % (host, _first_line(exc), download_command(request)), retryable=True)
    return DownloadError("bug", "unexpected error (%s: %s)" % (type(exc).__name__, _first_line(exc)))


def _explain_status(exc: hub.HfHubHTTPError, model: str, request: dict[str, Any]) -> DownloadError:
    """Return the DownloadError for an HTTP status of the hub, or of the content network behind it."""
    status = exc.response.status_code
    if status == 401:
        return DownloadError("bad_token", "the hub rejects your token; create a new one and replace the old one")
    # a signed address of the content network expires
    is_hub = str(exc.response.url).startswith(request["endpoint"])
    if status == 429:
        return _explain_rate_limit(exc, request)
    if status == 408 or status >= 500 or (status in (401, 403) and not is_hub):
        message = "the hub answered %d" + RESUME
        return DownloadError("network", message % (status, download_command(request)), retryable=True)
    if status == 403:
        message = "your token may not read %s; it needs the permission to read gated models"
        return DownloadError("forbidden", message % model)
    return DownloadError("refused", "the hub answered %d: %s" % (status, _first_line(exc)))


def _explain_rate_limit(exc: hub.HfHubHTTPError, request: dict[str, Any]) -> DownloadError:
    """Return the DownloadError for too many requests; the hub counts them in windows of five minutes."""
    words = str(exc.response.headers.get("retry-after") or "").strip()
    wait_s = min(float(words), MAX_WAIT_S) if words.isdigit() else RATE_WINDOW_S
    advice = "" if request["token"] else "; a token of your own raises the limit (HF_TOKEN in .env)"
    message = "the hub answered 429, too many requests, and asks to wait %d s%s" + RESUME
    return DownloadError("network", message % (wait_s, advice, download_command(request)), True, float(wait_s))


def _explain_disk_error(exc: OSError, request: dict[str, Any]) -> DownloadError:
    if exc.errno in NO_SPACE:
        reason = "your quota is used up" if exc.errno == errno.EDQUOT else "the disk is full"
        message = "%s (%s); free some space there" + RESUME
        return DownloadError("no_space", message % (reason, request["models_dir"], download_command(request)))
    return DownloadError("disk", "cannot write %s: %s" % (exc.filename or request["models_dir"], exc.strerror or exc))


def _is_network_error(exc: BaseException) -> bool:
    """Return whether it is an error of the HTTP library (its name changed between versions), or a short response."""
    library = type(exc).__module__.split(".")[0]
    return (
        library.startswith("httpx") or library in ("requests", "urllib3") or isinstance(exc, (OSError, RecursionError))
    )


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[0] if lines else type(exc).__name__)[:300]
