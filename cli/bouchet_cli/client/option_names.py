"""How people type what the API names by the fields of a request, so that a refusal speaks of what was typed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LAUNCH: Mapping[str, str] = {
    "model": "MODEL",
    **{name: f"--{name}" for name in ("like", "name", "gpus", "nodes", "time", "partition", "quant")},
    **{name: f"--{name}" for name in ("account", "qos", "constraint")},
    "kv_cache_dtype": "--kv-cache-dtype",
    "max_len": "--max-len",
    "serve_as": "--as",
    "idle_timeout_min": "--idle-timeout",
}
# path of the request -> field -> option
TYPED: Mapping[str, Mapping[str, str]] = {
    "/v1/deployments": _LAUNCH,
    "/v1/deployments/preview": _LAUNCH,
    "/v1/models/download": {"model": "MODEL", "revision": "--revision"},
    "/v1/images/jobs": {"pin": "PIN", "source": "--from", "rebuild": "--rebuild", "force": "--force"},
    "/v1/keys": {
        "name": "HOLDER",
        "requests_per_minute": "--requests-per-minute",
        "tokens_per_minute": "--tokens-per-minute",
        "expires_in": "--expires",
    },
    "/v1/usage": {"by": "--by", "since": "--since"},
}


def as_typed(problem: Mapping[str, Any], path: str) -> str:
    """The problem's sentence, its fields spelled as options; as it is where a field is none. path: of the request."""
    options = TYPED.get(path.partition("?")[0], {})
    told = [(options.get(str(error["field"]).partition(".")[0]), error["problem"]) for error in _fields(problem)]
    if not told or not all(option for option, _ in told):
        return str(problem["detail"])
    return "; ".join(f"{option}: {words}" for option, words in told)


def _fields(problem: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    errors = problem.get("errors")
    return [error for error in errors if isinstance(error, Mapping)] if isinstance(errors, list) else []
