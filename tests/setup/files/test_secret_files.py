"""Secret files: private, atomic, and untouched while the env file says the same."""

from __future__ import annotations

import stat
from pathlib import Path

from setup.docker.stack import Stack, compose_environ, read_generation
from setup.files.container_files import (
    FILES,
    GATEWAY_FILES,
    REDIS_FILES,
    SHARED_FILES,
    remove_shared_files,
    secret_contents,
    write_private_file,
    write_secret_files,
)
from setup.files.env_file import EnvSettings

VALUES = {
    **dict.fromkeys((*FILES.values(), "REDIS_PASSWORD", "GATEWAY_TOKEN"), "0123456789abcdef"),
    "BOUCHET_UID": "10001",
    "BOUCHET_GID": "10001",
    "PROXY_PORT": "4000",
    "API_PORT": "4001",
}


def stack_in(root: Path) -> Stack:
    return Stack(root, "bouchet-t", root / ".env", {})


def test_secret_files_are_private(tmp_path: Path) -> None:
    stack = stack_in(tmp_path)
    assert write_secret_files(stack, EnvSettings(VALUES))
    assert stack.secrets_dir.name == ".secrets-bouchet-t"
    assert stat.S_IMODE(stack.secrets_dir.stat().st_mode) == 0o700
    for name, content in secret_contents(VALUES).items():
        path = stack.secrets_dir / name
        assert path.read_text() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secret_files_unchanged_keep_inode_and_generation(tmp_path: Path) -> None:
    stack = stack_in(tmp_path)
    write_secret_files(stack, EnvSettings(VALUES))
    inodes = {path.name: path.stat().st_ino for path in stack.secrets_dir.iterdir()}
    generation = read_generation(stack)
    assert not write_secret_files(stack, EnvSettings(VALUES))
    assert {path.name: path.stat().st_ino for path in stack.secrets_dir.iterdir()} == inodes
    assert read_generation(stack) == generation != ""


def test_secret_files_changed_secret_changes_file_and_generation(tmp_path: Path) -> None:
    stack = stack_in(tmp_path)
    write_secret_files(stack, EnvSettings(VALUES))
    before = {path.name: path.stat().st_ino for path in stack.secrets_dir.iterdir()}
    assert write_secret_files(stack, EnvSettings({**VALUES, "BOUCHET_API_KEY": "another-key-of-some-length"}))
    after = {path.name: path.stat().st_ino for path in stack.secrets_dir.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {
        *("api_key", "chat_key", "proxy_metrics_key", "generation")
    }


def test_secret_files_replace_folder_left_by_mount(tmp_path: Path) -> None:
    (tmp_path / "api_key").mkdir()
    assert write_private_file(tmp_path / "api_key", "x", EnvSettings(VALUES))
    assert (tmp_path / "api_key").read_text() == "x"


def test_compose_environ_has_no_secret(tmp_path: Path) -> None:
    values = {**VALUES, **{key: f"secret-of-{key}-padding" for key in FILES.values()}}
    stack = stack_in(tmp_path)
    write_secret_files(stack, EnvSettings(values))
    environ = compose_environ(stack, EnvSettings(values), {})
    secrets = [content for name, content in secret_contents(values).items() if name != "redis_acl"]
    assert not [name for name, value in environ.items() if any(secret in value for secret in secrets)]


def test_secret_contents_differ_by_service_and_show_no_shared_secret() -> None:
    shared = {"REDIS_PASSWORD": "shared-redis-password", "GATEWAY_TOKEN": "shared-gateway-token"}
    contents = secret_contents({**VALUES, **shared})
    derived = [contents[name] for name in (*REDIS_FILES.values(), *GATEWAY_FILES.values())]
    assert len(set(derived)) == len(derived) and {len(secret) for secret in derived} == {64}
    assert not [name for name, content in contents.items() if any(value in content for value in shared.values())]
    assert not [secret for secret in derived if secret in contents["redis_acl"]], "the ACL file has hashes"
    assert contents == secret_contents({**VALUES, **shared}), "a stack keeps its passwords"


def test_remove_shared_files_removes_the_secrets_of_earlier_versions(tmp_path: Path) -> None:
    stack = stack_in(tmp_path)
    write_secret_files(stack, EnvSettings(VALUES))
    assert not remove_shared_files(stack)
    for name in SHARED_FILES:
        (stack.secrets_dir / name).write_text("x")
    assert remove_shared_files(stack)
    assert not [name for name in SHARED_FILES if (stack.secrets_dir / name).exists()]
