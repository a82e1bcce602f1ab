"""Which locks have to install on Linux for arm64, and how that is asked."""

from __future__ import annotations

from pathlib import Path

from setup.python.arm64 import arm64_argv, arm64_locks

ROOT = Path(__file__).parents[3]


def test_all_locks_of_services_and_tools_are_checked() -> None:
    names = {str(path.relative_to(ROOT)) for path in arm64_locks(ROOT)}
    services = {path.parent.name for path in (ROOT / "services").glob("*/requirements.lock")}
    assert {f"services/{name}/requirements.lock" for name in services} <= names
    assert {"cli/requirements.lock", "tests/requirements.lock", "setup/locks/uv.lock"} <= names
    assert "demo/models/requirements.lock" in names
    # the other images are for x86-64; of other locks none is left out unseen
    left_out = {"setup/locks/compose.lock", "setup/locks/compose-build.lock"}
    patterns = ("*/requirements.lock", "demo/*/requirements.lock", "setup/locks/*.lock")
    every = {path for pattern in patterns for path in ROOT.glob(pattern) if "==" in path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in every} - names == left_out
    assert [name for name in names if name.startswith("apptainer/")] == [
        "apptainer/pins/cpu-arm64-0.32.0/requirements.lock"
    ]


def test_uv_is_asked_for_hashes_and_wheels_alone() -> None:
    argv = arm64_argv("uv", ROOT / "cli" / "requirements.lock")
    assert {"--dry-run", "--require-hashes", "--no-deps"} <= set(argv)
    assert argv[argv.index("--only-binary") + 1] == ":all:"
    assert argv[argv.index("--python-platform") + 1].startswith("aarch64")


def test_uv_is_asked_for_the_python_and_c_library_of_an_image() -> None:
    argv = arm64_argv("uv", ROOT / "apptainer/pins/cpu-arm64-0.32.0/requirements.lock")
    assert argv[argv.index("--python-platform") + 1] == "aarch64-manylinux_2_36"
    assert argv[argv.index("--python-version") + 1] == "3.11"
