"""Secret files: private, atomic, and untouched while the env file says the same."""

from __future__ import annotations

import stat
from pathlib import Path

from setup.docker.stack import Stack, compose_environ, read_generation
from setup.files.container_files import FILES, write_private_file, write_secret_files
from setup.files.env_file import EnvSettings

VALUES = {
    **dict.fromkeys(FILES.values(), "0123456789abcdef"),
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
    for name, key in FILES.items():
        path = stack.secrets_dir / name
        assert path.read_text() == VALUES[key]
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
    assert {name for name in before if before[name] != after[name]} == {"api_key", "generation"}


def test_secret_files_replace_folder_left_by_mount(tmp_path: Path) -> None:
    (tmp_path / "api_key").mkdir()
    assert write_private_file(tmp_path / "api_key", "x", EnvSettings(VALUES))
    assert (tmp_path / "api_key").read_text() == "x"


def test_compose_environ_has_no_secret(tmp_path: Path) -> None:
    values = {**VALUES, **{key: f"secret-of-{key}-padding" for key in FILES.values()}}
    stack = stack_in(tmp_path)
    write_secret_files(stack, EnvSettings(values))
    environ = compose_environ(stack, EnvSettings(values), {})
    assert not [name for name, value in environ.items() if "secret-of" in value]
