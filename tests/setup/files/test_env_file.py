"""The env file: every typo is a sentence with its line, and what is there is never written again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setup.errors import EnvFileError
from setup.files.env_file import (
    CHECKS,
    OPTIONAL,
    add_missing_keys,
    ensure_env_file,
    parse_env_file,
    read_env_file,
    render_env_file,
)

TEMPLATE = Path(__file__).parents[3] / ".env.example"
SECRET = "0123456789abcdef0123456789abcdef"
GOOD = {
    **dict.fromkeys(("BOUCHET_API_KEY", "REDIS_PASSWORD", "GATEWAY_TOKEN", "SERVING_SECRET"), SECRET),
    "BOUCHET_UID": "1000",
    "BOUCHET_GID": "1000",
    "PROXY_PORT": "4000",
    "API_PORT": "4001",
    "BOUCHET_ADMIN_KEY": f"admin-{SECRET}",
}


def text_of(**changes: str) -> str:
    return "".join(f"{key}={value}\n" for key, value in {**GOOD, **changes}.items())


def test_ensure_env_file_is_private_and_complete(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert ensure_env_file(path, TEMPLATE, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = read_env_file(path)
    assert set(found.values) >= set(CHECKS) - OPTIONAL
    assert (found.proxy_port, found.api_port, found.host, found.site) == (4000, 4001, "", "demo")
    assert [child.name for child in tmp_path.iterdir()] == [".env"]


def test_render_env_file_secrets_are_random() -> None:
    one, two = (parse_env_file(render_env_file(TEMPLATE.read_text(), {}, 5, 5), Path(".env")) for _ in range(2))
    secrets = ("BOUCHET_API_KEY", "BOUCHET_ADMIN_KEY", "REDIS_PASSWORD", "GATEWAY_TOKEN", "SERVING_SECRET")
    assert len({values[name] for values in (one, two) for name in secrets}) == 10


def test_render_env_file_takes_ports_and_host_from_environment() -> None:
    environ = {"PROXY_PORT": "4100", "BOUCHET_HOST": "bouchet", "BOUCHET_API_KEY": "from-the-shell-is-not-taken"}
    found = parse_env_file(render_env_file(TEMPLATE.read_text(), environ, 0, 0), Path(".env"))
    assert (found["PROXY_PORT"], found["BOUCHET_HOST"]) == ("4100", "bouchet")
    assert found["BOUCHET_API_KEY"] != environ["BOUCHET_API_KEY"]
    assert found["BOUCHET_UID"] == "10001", "root's containers do not run as root"


@given(content=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_ensure_env_file_existing_is_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".env"
    path.write_bytes(content)
    before = path.stat()
    assert not ensure_env_file(path, TEMPLATE, {})
    assert path.read_bytes() == content
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_ensure_env_file_dangling_link_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(tmp_path / "elsewhere")
    assert not ensure_env_file(tmp_path / ".env", TEMPLATE, {})
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("text", "line", "detail"),
    [
        (text_of() + "PROXI_PORT=4000\n", 10, "did you mean PROXY_PORT?"),
        (text_of() + "bouchet_host=x\n", 10, "did you mean BOUCHET_HOST?"),
        (text_of() + "SOMETHING_ELSE=4000\n", 10, "known are"),
        (text_of() + "\n\nAPI_PORT 4001\n", 12, "write API_PORT=value"),
        (text_of() + "API_PORT: 4001\n", 10, "write API_PORT=value"),
        (text_of() + "just words\n", 10, "not KEY=value"),
        (text_of() + "export LOG_LEVEL=INFO\n", 10, "export"),
        (text_of() + "LOG_LEVEL = INFO\n", 10, "write LOG_LEVEL=INFO"),
        (text_of() + "LOG_LEVEL=LOUD\n", 10, "not one of DEBUG"),
        (text_of() + "BOUCHET_BUDGET=40h\n", 10, "such as 400h/month"),
        (text_of() + "DIRECT=maybe\n", 10, "neither on nor off"),
        (text_of() + "BOUCHET_DB_URL=mysql://u:p@h/d\n", 10, "postgresql://USER:PASSWORD@HOST/DATABASE"),
        (text_of() + "BOUCHET_DB_URL=postgresql://u:p@q@h/d\n", 10, "an @ or / of the password is %40 or %2F"),
        (text_of() + "LEDGER_KEEP_DAYS=0\n", 10, "not a number of 1 or more"),
        (text_of() + "MFA_AUTO=push\n", 10, "number of an option"),
        (text_of() + "API_PORT=4001\n", 10, "set twice (first in line 8)"),
        (text_of(PROXY_PORT="70000"), 7, "not a port"),
        (text_of(PROXY_PORT=""), 7, "not a port"),
        (text_of(API_PORT="4000"), 8, "the same"),
        (text_of(BOUCHET_ADMIN_KEY=SECRET), 9, "the same"),
        (text_of(BOUCHET_API_KEY="short"), 1, "too short"),
        (text_of(REDIS_PASSWORD='quote"and-some-more-characters'), 2, "letters, digits"),
        (text_of(BOUCHET_UID="0"), 5, "never run as root"),
        (text_of(BOUCHET_UID="me"), 5, "`id -u`"),
        (text_of(BOUCHET_HOST="-oProxyCommand=sh"), 10, "not a host name"),
        (text_of(BOUCHET_HOST="login1,-x"), 10, "`-x` is not a host name"),
        (text_of(BOUCHET_SITE="../etc"), 10, "a file of sites/"),
    ],
)
def test_parse_env_file_typo_names_line_and_fix(text: str, line: int, detail: str) -> None:
    with pytest.raises(EnvFileError) as caught:
        parse_env_file(text, Path("some/.env"))
    assert caught.value.line == line
    assert str(caught.value).startswith(f"some/.env:{line}: ")
    assert detail in str(caught.value)


def test_parse_env_file_missing_key_is_named() -> None:
    with pytest.raises(EnvFileError, match="GATEWAY_TOKEN is missing"):
        parse_env_file(text_of().replace("GATEWAY_TOKEN", "# GATEWAY_TOKEN"), Path(".env"))


def test_parse_env_file_accepts_quotes_comments_and_empty_options() -> None:
    found = parse_env_file(text_of(API_PORT='"4711"') + "# a comment\n\nBOUCHET_HOST=\n", Path(".env"))
    assert (found["API_PORT"], found["BOUCHET_HOST"]) == ("4711", "")


def test_read_env_file_readable_by_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(text_of())
    path.chmod(0o644)
    with pytest.raises(EnvFileError, match="chmod 600"):
        read_env_file(path)


def test_add_missing_keys_old_file_gets_an_admin_key_and_keeps_the_rest(tmp_path: Path) -> None:
    path, old = tmp_path / ".env", text_of().replace("BOUCHET_ADMIN_KEY", "# BOUCHET_ADMIN_KEY").rstrip("\n")
    path.write_text(old)
    path.chmod(0o600)
    before = path.stat().st_ino
    with pytest.raises(EnvFileError, match="BOUCHET_ADMIN_KEY is missing; `make env` adds it"):
        read_env_file(path)
    assert add_missing_keys(path) == ["BOUCHET_ADMIN_KEY"]
    assert path.read_text().startswith(old + "\n")
    assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (before, 0o600)
    found = read_env_file(path)
    assert len(found.admin_key) == 64 and found.admin_key != found.api_key == SECRET
    assert add_missing_keys(path) == [] and read_env_file(path).admin_key == found.admin_key


@pytest.mark.parametrize("text", ["", "just words\n", "API_PORT=1\nAPI_PORT=2\n"])
@pytest.mark.parametrize("mode", [0o644, 0o400, 0o600])
def test_add_missing_keys_file_that_is_refused_is_unchanged(tmp_path: Path, text: str, mode: int) -> None:
    path = tmp_path / ".env"
    path.write_text(text)
    path.chmod(mode)
    changed = add_missing_keys(path) != []
    assert path.read_text() == text or (changed and mode & 0o077 == 0 and text == "")


@given(text=st.text(max_size=300))
def test_parse_env_file_any_text_parses_or_raises(text: str) -> None:
    try:
        parse_env_file(text, Path(".env"))
    except EnvFileError as exc:
        assert "\n" not in str(exc)
