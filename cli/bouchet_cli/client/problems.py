"""Error answers of the API and the proxy as command errors, with request fields shown as command-line options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import CommandError, NotReadyError, UnreachableError, UsageError
from .http import HttpStatusError
from .settings import ADMIN_KEY, KEY

# the API's kind for a name that no deployment has
UNKNOWN_DEPLOYMENT = "unknown_deployment"
# the same for a model that the catalog does not have
UNKNOWN_MODEL = "unknown_model"
# the API's kind for values that it does not accept
BAD_REQUEST = "bad_request"
# kinds for what a name on the command line should name, and nothing does
NOT_THERE = frozenset(
    (
        UNKNOWN_DEPLOYMENT, UNKNOWN_MODEL, "unknown_download", "unknown_pin", "unknown_image_job", "image_missing",
        "model_missing", "unknown_key", "unknown_task", "unknown_orphan",
    )
)  # fmt: skip
# nothing of a model is on the cluster
MODEL_MISSING = "model_missing"
WRONG_KEY = "the running stack does not accept {key} from .env; restart it with `make up`"
# a person's key opens the proxy only, and for a time
WRONG_OWN_KEY = (
    f"the proxy does not accept the {KEY} of your environment: it was revoked, has expired, or is the key of another "
    f"installation; ask who gave it to you, or use the owner's key of .env with `unset {KEY}`"
)
# statuses of the proxy for a model that is not ready: OpenAI's and Anthropic's
NOT_READY = (503, 529)

_LAUNCH: Mapping[str, str] = {
    "model": "MODEL",
    **{name: f"--{name}" for name in ("like", "name", "gpus", "nodes", "time", "partition", "quant")},
    **{name: f"--{name}" for name in ("account", "qos", "constraint")},
    "kv_cache_dtype": "--kv-cache-dtype",
    "max_len": "--max-len",
    "serve_as": "--as",
    "notify": "--notify",
    "idle_timeout_min": "--idle-timeout",
    **{f"policy.{name}": f"--{name}" for name in ("keep", "until", "hours", "begin", "budget", "replicas")},
    "policy.on_demand": "--on-demand",
    "policy.exclusive_group": "--group",
}
_DAYS: Mapping[str, str] = {"by": "VIEW", "from": "--from", "to": "--to", "month": "--month", "zone": "--zone"}
# path of the request -> field -> option
OPTION_NAMES: Mapping[str, Mapping[str, str]] = {
    "/v1/deployments": _LAUNCH,
    "/v1/deployments/preview": _LAUNCH,
    "/v1/deployments/attach": {
        **{name: f"--{name}" for name in ("node", "port", "model")},
        "name": "NAME",
        "key": "--key-file",
        "max_len": "--max-len",
    },
    "/v1/models/download": {"model": "MODEL", "revision": "--revision"},
    "/v1/models/inspect": {"model": "ORG/NAME", "revision": "--revision"},
    "/v1/images/jobs": {"pin": "PIN", "source": "--from", "rebuild": "--rebuild", "force": "--force"},
    "/v1/keys": {
        "name": "HOLDER",
        "requests_per_minute": "--requests-per-minute",
        "tokens_per_minute": "--tokens-per-minute",
        "expires_in": "--expires",
    },
    "/v1/usage": {"by": "--by", "since": "--since"},
    "/v1/ledger": _DAYS,
    "/v1/ledger/gpu": _DAYS,
}


def api_error(error: HttpStatusError, path: str = "") -> CommandError:
    """Return the command error for an error answer of the API. path: of the request."""
    problem = error.json()
    if isinstance(problem, dict) and "detail" in problem:
        detail, kind = problem_message(problem, path), str(problem.get("kind", ""))
    else:
        detail, kind = f"{error.url} returned HTTP {error.status} without an error message; see `make logs`", ""
    if error.status == 401:
        return UnreachableError(WRONG_KEY.format(key=ADMIN_KEY), kind)
    if kind == BAD_REQUEST:
        return UsageError(detail, kind)
    if kind in NOT_THERE:
        return NotReadyError(detail, kind)
    return CommandError(detail, kind)


def proxy_error(error: HttpStatusError, *, own_key: bool = False) -> CommandError:
    """Return the command error for an error answer of the proxy. own_key: the key came from the environment."""
    if error.status == 401:
        return UnreachableError(WRONG_OWN_KEY if own_key else WRONG_KEY.format(key=KEY))
    body = error.json()
    message = error_text(body) if body else f"the proxy returned HTTP {error.status}; see `make logs`"
    return NotReadyError(message) if error.status in NOT_READY else CommandError(message)


def error_text(body: Any) -> str:
    """Return the message in an error body of the OpenAI or Anthropic API."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message") or error) if isinstance(error, dict) else str(error or body)


def problem_message(problem: Mapping[str, Any], path: str) -> str:
    """Return the problem's message with option names for fields; unchanged if any field has no option."""
    options = OPTION_NAMES.get(path.partition("?")[0], {})
    found = [(_option(str(error["field"]), options), error["problem"]) for error in _fields(problem)]
    if not found or not all(option for option, _ in found):
        return str(problem["detail"])
    return "; ".join(f"{option}: {message}" for option, message in found)


def _option(field: str, options: Mapping[str, str]) -> str | None:
    """Return the option of a field such as gpus, serve_as.0 or policy.keep."""
    head, _, rest = field.partition(".")
    return options.get(f"{head}.{rest.partition('.')[0]}") or options.get(head)


def _fields(problem: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    errors = problem.get("errors")
    return [error for error in errors if isinstance(error, Mapping)] if isinstance(errors, list) else []
