"""The env file (.env): made once with random secrets, read strictly. What is in it never changes; keys may be added.

A typo is an error with file and line, because Compose would take it in silence: an unknown key is ignored there,
and the stack comes up on another port or with another cluster than the person asked for.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bouchet_core.env_file import EnvEntry, EnvLineError, parse_env_lines

from setup.errors import EnvFileError

SECRET_BYTES = 32
MIN_SECRET_LENGTH = 16
ROOT_STAND_IN_UID = 10001  # containers never run as root, even when root starts them

# as bouchet_core.notices has them, which needs packages that setup does not
NOTIFY_EVENTS = ("ready", "ending", "ended", "failed_start", "needs_person", "budget")
MAX_NOTIFY_URLS = 8

Check = Callable[[str], str | None]


@dataclass(frozen=True)
class EnvSettings:
    """What the env file says. `host` empty means: no cluster, so the demo."""

    values: Mapping[str, str]

    @property
    def host(self) -> str:
        """The cluster's login node, an alias of ~/.ssh/config or a name; empty for the demo."""
        return self.values.get("BOUCHET_HOST", "")

    @property
    def site(self) -> str:
        """Which file of sites/ describes the cluster."""
        return self.values.get("BOUCHET_SITE") or ("bouchet" if self.host else "demo")

    @property
    def uid(self) -> int:
        """The user that containers run as."""
        return int(self.values["BOUCHET_UID"])

    @property
    def gid(self) -> int:
        """The group that containers run as."""
        return int(self.values["BOUCHET_GID"])

    @property
    def proxy_port(self) -> int:
        """Where the proxy is published on 127.0.0.1."""
        return int(self.values["PROXY_PORT"])

    @property
    def api_port(self) -> int:
        """Where the api is published on 127.0.0.1."""
        return int(self.values["API_PORT"])

    @property
    def has_metrics(self) -> bool:
        """Whether a Prometheus runs beside the services."""
        return self.values.get("METRICS") == "on"

    @property
    def prometheus_port(self) -> int:
        """The port of that Prometheus on this machine."""
        return int(self.values.get("PROMETHEUS_PORT") or 9090)

    @property
    def notifies(self) -> bool:
        """Whether messages have a target: without one there is no notifier."""
        return bool(self.values.get("NOTIFY_URLS", "").strip())

    @property
    def api_key(self) -> str:
        """Opens the proxy."""
        return self.values["BOUCHET_API_KEY"]

    @property
    def admin_key(self) -> str:
        """Opens the API."""
        return self.values["BOUCHET_ADMIN_KEY"]


def check_secret(value: str) -> str | None:
    """Return the problem with a password or key, None if it is valid."""
    if len(value) < MIN_SECRET_LENGTH:
        return f"is too short ({len(value)} characters, at least {MIN_SECRET_LENGTH}); `openssl rand -hex 32` makes one"
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", value):
        return "may hold letters, digits and . _ ~ + / = - only"
    return None


def check_port(value: str) -> str | None:
    """Return the problem with a port, None if it is valid."""
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        return f"is `{value}`, not a port (1 to 65535)"
    return None


def check_id(value: str) -> str | None:
    """Return the problem with a uid or gid, None if it is valid."""
    if not re.fullmatch(r"[0-9]{1,10}", value):
        return f"is `{value}`, not a number; `id -u` and `id -g` print yours"
    return "is 0; containers of this project never run as root" if int(value) == 0 else None


def check_host(value: str) -> str | None:
    """Return the problem with the aliases of login nodes, if any. ssh would read a leading dash as an option."""
    for alias in value.split(",") if value else []:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", alias.strip()):
            return f"is `{value}`; `{alias}` is not a host name or an alias of ~/.ssh/config (the user name goes there)"
    return None


def check_token(value: str) -> str | None:
    """Return the problem with a token of the hub, None if it is valid. The token is never repeated."""
    return None if re.fullmatch(r"[A-Za-z0-9_-]{8,200}", value) else "is no token (they begin with `hf_`)"


def check_workers(value: str) -> str | None:
    """Return the problem with the number of workers, None if it is valid."""
    return None if re.fullmatch(r"[1-9]", value) else f"is `{value}`; it is a number from 1 to 9"


def check_site(value: str) -> str | None:
    """Return the problem with a site's name, None if it is valid."""
    if value and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        return f"is `{value}`; it names a file of sites/ without `.yaml`"
    return None


def check_level(value: str) -> str | None:
    """Return the problem with a log level, None if it is valid."""
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    return None if value in levels else f"is `{value}`, not one of {', '.join(levels)}"


def check_switch(value: str) -> str | None:
    """Return the problem with an on/off switch, None if it is valid."""
    return None if value in ("on", "off") else f"is `{value}`, neither on nor off"


def check_choice(value: str) -> str | None:
    """Return the problem with a menu option, None if it is valid."""
    return None if re.fullmatch(r"[0-9]{1,2}", value) else "is not the number of an option of the login's menu, e.g. 1"


def check_seconds(value: str) -> str | None:
    """Return the problem with a number of seconds, None if it is valid."""
    return None if re.fullmatch(r"[0-9]{1,4}", value) else "is not a number of seconds from 0 to 9999"


def check_origins(value: str) -> str | None:
    """Return the problem with a list of origins of web pages, None if it is valid. The proxy reads it more strictly."""
    for origin in filter(None, (part.strip() for part in value.split(","))):
        if not re.fullmatch(r"https?://(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?", origin):
            return f"is `{value}`; `{origin}` is not an origin such as http://localhost:3000 (no path, no *)"
    return None


def check_budget(value: str) -> str | None:
    """Return the problem with the budget of all deployments, None if it is valid."""
    if not value or re.fullmatch(r"[0-9][0-9,_]*(\.[0-9]+)?(h|gpuh|su)/(day|week|month)", value):
        return None
    return f"is `{value}`; write an amount and a period, such as 400h/month or 20000su/week"


def check_database(value: str) -> str | None:
    """Return the problem with the URL of the ledger's database, None if it is valid; it may hold a password."""
    if not value or re.fullmatch(r"postgres(ql)?(\+[a-z0-9]+)?://([^\s/@]+@)?[^\s/@]+/[^\s/?@]+(\?\S*)?", value):
        return None
    example = "postgresql://USER:PASSWORD@HOST/DATABASE"
    return f"is not a URL such as {example} (an @ or / of the password is %40 or %2F); leave it empty for a file"


def check_notify_urls(value: str) -> str | None:
    """Return the problem with the targets of notifications, None if they are valid; they hold secrets.

    What comes before each `://` is checked here; apprise, which knows the services, is in the notifier's image only.
    """
    parts = re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)", value.strip()) if value.strip() else []
    for number, part in enumerate(parts, start=1):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S*", part):
            return f"has no URL in place {number}; write URLs such as ntfys://TOPIC, separated by blanks"
    return f"has {len(parts)} URLs; {MAX_NOTIFY_URLS} are possible" if len(parts) > MAX_NOTIFY_URLS else None


def check_notify_events(value: str) -> str | None:
    """Return the problem with the kinds of messages, None if they are valid."""
    names = [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in NOTIFY_EVENTS]
    if not unknown or names == ["none"]:
        return None
    return f"has `{unknown[0]}`, which is none of {', '.join(NOTIFY_EVENTS)}; `none` alone switches all off"


def check_count(value: str) -> str | None:
    """Return the problem with a whole number, None if it is valid."""
    return (
        None if value.isascii() and value.isdigit() and int(value) > 0 else f"is `{value}`, not a number of 1 or more"
    )


def check_remote_directory(value: str) -> str | None:
    """Return the problem with a directory on the cluster, None if it is valid."""
    if re.fullmatch(r"(~/?|/)[A-Za-z0-9_./@+=-]*[A-Za-z0-9_@+=-]/?", value):
        return None
    return f"is `{value}`; it is a directory on the cluster, such as ~/project_pi_ab12/you or /projects/abcd/you"


CHECKS: Mapping[str, Check] = {
    "BOUCHET_API_KEY": check_secret,
    "BOUCHET_ADMIN_KEY": check_secret,
    "REDIS_PASSWORD": check_secret,
    "GATEWAY_TOKEN": check_secret,
    "SERVING_SECRET": check_secret,
    "BOUCHET_UID": check_id,
    "BOUCHET_GID": check_id,
    "PROXY_PORT": check_port,
    "API_PORT": check_port,
    "BOUCHET_HOST": check_host,
    "BOUCHET_SITE": check_site,
    "BOUCHET_PROJECT_DIR": check_remote_directory,
    "BOUCHET_SCRATCH_DIR": check_remote_directory,
    "HF_TOKEN": check_token,
    "MFA_AUTO": check_choice,
    "DIRECT": check_switch,
    "SSH_FAST_PATH": check_switch,
    "HOLD_STARTING_S": check_seconds,
    "HOLD_TUNNEL_S": check_seconds,
    "CONTINUE_ANSWERS": check_switch,
    "BROWSER_ORIGINS": check_origins,
    "WORKERS": check_workers,
    "BOUCHET_BUDGET": check_budget,
    "BOUCHET_DB_URL": check_database,
    "LEDGER_KEEP_DAYS": check_count,
    "LEDGER_MAX_MB": check_count,
    "NOTIFY_URLS": check_notify_urls,
    "NOTIFY_EVENTS": check_notify_events,
    "METRICS": check_switch,
    "PROMETHEUS_PORT": check_port,
    "LOG_LEVEL": check_level,
}
# keys that older versions did not have, with the comment that is written above each
ADDED = {"BOUCHET_ADMIN_KEY": "Opens the API, which ./bouchet uses. BOUCHET_API_KEY opens the proxy only."}
INHERITED = ("PROXY_PORT", "API_PORT", "BOUCHET_HOST", "BOUCHET_SITE")  # from the environment, into a new file
OPTIONAL = frozenset(
    {
        "BOUCHET_HOST",
        "BOUCHET_SITE",
        "BOUCHET_PROJECT_DIR",
        "BOUCHET_SCRATCH_DIR",
        "HF_TOKEN",
        "MFA_AUTO",
        "DIRECT",
        "SSH_FAST_PATH",
        "HOLD_STARTING_S",
        "HOLD_TUNNEL_S",
        "CONTINUE_ANSWERS",
        "BROWSER_ORIGINS",
        "LOG_LEVEL",
        "WORKERS",
        "BOUCHET_BUDGET",
        "BOUCHET_DB_URL",
        "LEDGER_KEEP_DAYS",
        "LEDGER_MAX_MB",
        "NOTIFY_URLS",
        "NOTIFY_EVENTS",
        "METRICS",
        "PROMETHEUS_PORT",
    }
)


def ensure_env_file(path: Path, template: Path, environ: Mapping[str, str]) -> bool:
    """Make the env file from `template` unless it exists; True if it was made.

    INHERITED names what a new file takes from `environ`.
    """
    if path.exists() or path.is_symlink():
        return False
    text = render_env_file(template.read_text(encoding="utf-8"), environ, os.getuid(), os.getgid())
    # O_EXCL: two runs at once must not both write, and nothing that appeared meanwhile is overwritten.
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.link(scratch, path)
    except FileExistsError:
        return False
    finally:
        scratch.unlink(missing_ok=True)
    return True


def add_missing_keys(path: Path) -> list[str]:
    """Append the keys of ADDED that an existing env file lacks, and return their names; all else in it stays.

    A file that is to be refused for another reason is left as it is: read_env_file says why.
    """
    try:
        with path.open("r+", encoding="utf-8", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read()
            known = {entry.key for entry in parse_env_lines(text)}
            missing = [name for name in ADDED if name not in known]
            if missing and not os.fstat(file.fileno()).st_mode & 0o077:
                lines = [f"\n# {ADDED[name]}\n{name}={secrets.token_hex(SECRET_BYTES)}\n" for name in missing]
                file.write(("" if text.endswith("\n") else "\n") + "".join(lines))
                return missing
    except (OSError, UnicodeDecodeError, EnvLineError):
        pass
    return []


def render_env_file(template: str, environ: Mapping[str, str], uid: int, gid: int) -> str:
    """Render a new env file: the template with its empty keys filled in."""
    fresh = {name: secrets.token_hex(SECRET_BYTES) for name, check in CHECKS.items() if check is check_secret}
    fresh["BOUCHET_UID"] = str(uid or ROOT_STAND_IN_UID)
    fresh["BOUCHET_GID"] = str(gid or ROOT_STAND_IN_UID)
    given = {name: environ[name] for name in INHERITED if environ.get(name)}
    lines = [_fill(line, {**fresh, **given}) for line in template.splitlines()]
    return "\n".join(lines) + "\n"


def _fill(line: str, values: Mapping[str, str]) -> str:
    match = re.fullmatch(r"(?:# ?)?([A-Z_]+)=(.*)", line)
    if match is None or match[1] not in values:
        return line
    return f"{match[1]}={values[match[1]]}"


def read_env_file(path: Path) -> EnvSettings:
    """Read the file's settings; raises EnvFileError for the first problem."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise EnvFileError(path, 0, f"cannot be read ({exc}); move it away and `make up` writes a new one") from exc
    if mode & 0o077:
        raise EnvFileError(path, 0, f"holds keys and others may read it (mode {mode:o}); run `chmod 600 {path}`")
    return EnvSettings(parse_env_file(text, path))


def parse_env_file(text: str, path: Path) -> dict[str, str]:
    """Parse the env file into key and value.

    Raises EnvFileError for a line that is not KEY=value with a known key and a usable value.
    """
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for entry in _entries(text, path):
        if entry.key not in CHECKS:
            raise EnvFileError(path, entry.line, f"unknown key {entry.key}{_suggest(entry.key)}")
        problem = None if entry.key in OPTIONAL and not entry.value else CHECKS[entry.key](entry.value)
        if problem:
            raise EnvFileError(path, entry.line, f"{entry.key} {problem}")
        values[entry.key], lines[entry.key] = entry.value, entry.line
    _require_all(values, lines, path)
    return values


def _entries(text: str, path: Path) -> list[EnvEntry]:
    try:
        return parse_env_lines(text)
    except EnvLineError as exc:
        raise EnvFileError(path, exc.line, exc.problem) from exc


def _suggest(key: str) -> str:
    close = difflib.get_close_matches(key.upper(), CHECKS, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(CHECKS)}"


def _require_all(values: Mapping[str, str], lines: Mapping[str, int], path: Path) -> None:
    for key in CHECKS:
        if key not in OPTIONAL and key not in values:
            fix = "`make env` adds it" if key in ADDED else "add it, or move the file away for a new one"
            raise EnvFileError(path, 0, f"{key} is missing; {fix}")
    if values["PROXY_PORT"] == values["API_PORT"]:
        raise EnvFileError(path, lines["API_PORT"], "API_PORT and PROXY_PORT are the same; give each its own")
    if values["BOUCHET_API_KEY"] == values["BOUCHET_ADMIN_KEY"]:
        problem = "BOUCHET_ADMIN_KEY and BOUCHET_API_KEY are the same; `openssl rand -hex 32` makes another"
        raise EnvFileError(path, lines["BOUCHET_ADMIN_KEY"], problem)
