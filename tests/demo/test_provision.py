"""Provisioning the demo cluster: what is made again, and what is kept."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest

from demo.commands import ProgramFailedError, ProvisionError, run, step
from demo.provision import MADE_FROM, Contents, DemoCluster, install, read_layout
from demo.staging import (
    DEMO_MODELS,
    PINS,
    PLUGIN_FILES,
    PLUGINS,
    DemoLayout,
    copy_changed,
    parse_flat_yaml,
    stage_files,
)

ROOT = Path(__file__).parents[2]


class FakeCluster(DemoCluster):
    """A cluster that has some files, and remembers what it was asked to run."""

    def __init__(self, files: Contents) -> None:
        super().__init__(compose=["compose"])
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "jobs", [])
        object.__setattr__(self, "asked", [])

    files: Contents
    jobs: list[str]
    asked: list[Sequence[str]]

    def ask(self, argv: Sequence[str], timeout_s: float = 0) -> str:
        self.asked.append(argv)
        return ""

    def read(self, paths: Sequence[PurePosixPath]) -> Contents:
        return {str(path): self.files.get(str(path)) for path in paths}

    def run_job(self, script: PurePosixPath, *arguments: object) -> None:
        self.jobs.append(" ".join([script.name, *map(str, arguments)]))


@pytest.fixture
def layout(tmp_path: Path) -> DemoLayout:
    return DemoLayout(ROOT, tmp_path / "staging")


def finished(layout: DemoLayout) -> Contents:
    files: Contents = {
        str(layout.image): "SIF",
        str(layout.manifest): f'{{"recipe_sha256": "{layout.image_recipe()}"}}',
    }
    files |= {str(model.folder / MADE_FROM): f"{layout.model_recipe(model)}\n" for model in DEMO_MODELS}
    return files | {str(PLUGINS / name): (layout.model_sources / name).read_text() for name in PLUGIN_FILES}


def test_install_complete_cluster_runs_nothing(layout: DemoLayout) -> None:
    cluster = FakeCluster(finished(layout))
    install(layout, cluster)
    assert not cluster.jobs and not cluster.asked


def test_install_empty_cluster_builds_image_first(layout: DemoLayout) -> None:
    cluster = FakeCluster({})
    install(layout, cluster)
    assert cluster.jobs[0].startswith("build.sh")
    assert {job.split()[1] for job in cluster.jobs[1:]} == {model.script for model in DEMO_MODELS}
    assert cluster.asked[0][0] == "install"


@pytest.mark.parametrize("part", ["image", "manifest"])
def test_install_image_without_manifest_is_rebuilt(layout: DemoLayout, part: str) -> None:
    cluster = FakeCluster({**finished(layout), str(getattr(layout, part)): None})
    install(layout, cluster)
    assert [job.split()[0] for job in cluster.jobs] == ["build.sh"]


def test_install_model_of_other_recipe_is_rebuilt(layout: DemoLayout) -> None:
    cluster = FakeCluster({**finished(layout), str(DEMO_MODELS[0].folder / MADE_FROM): "older\n"})
    install(layout, cluster)
    assert [job.split()[1] for job in cluster.jobs] == [DEMO_MODELS[0].script]


def test_image_recipe_matches_build_script(layout: DemoLayout) -> None:
    stage_files(layout)
    staged = layout.staging / "cpu-0.32.0"
    found = r"^sha256_of\(\)[^\n]*$|^recipe_sha256\(\) \{\n.*?^\}$"
    functions = re.findall(found, (staged / "build.sh").read_text(), re.M | re.S)
    script = "\n".join([f"pin_folder={staged}", *functions, "recipe_sha256"])
    assert run(["bash", "-euc", script], timeout_s=10).strip() == layout.image_recipe()


def test_copy_changed_is_readable_by_others(layout: DemoLayout) -> None:
    stage_files(layout)
    assert (layout.staging / "jobs/run_job.sh").stat().st_mode & 0o777 == 0o755
    assert (layout.staging / "models/scripted.py").stat().st_mode & 0o777 == 0o644


def test_copy_changed_keeps_unchanged_files(tmp_path: Path) -> None:
    source, folder = tmp_path / "a.sh", tmp_path / "there"
    source.write_text("1")
    copy_changed([source], folder)
    before = (folder / "a.sh").stat().st_ino
    copy_changed([source], folder)
    assert (folder / "a.sh").stat().st_ino == before
    source.write_text("2")
    copy_changed([source], folder)
    assert (folder / "a.sh").read_text() == "2"
    assert [path.name for path in folder.iterdir()] == ["a.sh"]


@pytest.mark.parametrize("cpu", PINS)
def test_demo_pin_target_matches_facts(cpu: str) -> None:
    pin = read_layout({"DEMO_CPU": cpu}).pin()
    assert pin.facts["name"] == pin.folder.name
    assert pin.facts["cuda"] == ""
    assert (pin.target.python, pin.target.machine) == ("3.11", cpu)


def test_install_on_arm64_builds_the_image_for_it_alone(tmp_path: Path) -> None:
    layout = DemoLayout(ROOT, tmp_path, "aarch64")
    stage_files(layout)
    assert (tmp_path / "cpu-arm64-0.32.0" / "build.sh").is_file() and not (tmp_path / "cpu-0.32.0").exists()
    cluster = FakeCluster({})
    install(layout, cluster)
    assert cluster.jobs[0] == "build.sh /staging/cpu-arm64-0.32.0 /software/images"
    assert all("/software/images/cpu-arm64-0.32.0.sif" in job for job in cluster.jobs[1:])


def test_layout_is_for_x86_64_unless_another_cpu_is_named() -> None:
    assert read_layout({}).pin_name == "cpu-0.32.0"
    with pytest.raises(ProvisionError, match="DEMO_CPU is riscv64; the demo has images for x86_64, aarch64"):
        read_layout({"DEMO_CPU": "riscv64"})


def test_parse_flat_yaml_drops_comments_and_quotes() -> None:
    assert parse_flat_yaml('# c: d\na: "1.0"\nb: debian:x\nc: null\n') == {"a": "1.0", "b": "debian:x", "c": ""}


def test_run_failure_shows_end_of_output() -> None:
    with pytest.raises(ProgramFailedError) as caught:
        run(["bash", "-c", "seq 100; echo last words >&2; exit 3"], timeout_s=10)
    assert caught.value.exit_status == 3
    assert "last words" in str(caught.value) and "\n50\n" not in str(caught.value)


def test_run_missing_or_endless_program_fails() -> None:
    with pytest.raises(ProgramFailedError, match="is not installed"):
        run(["no-such-program"], timeout_s=1)
    with pytest.raises(ProgramFailedError, match="timed out after"):
        run(["sleep", "9"], timeout_s=0.1)


def test_demo_step_prints_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    with step("one"):
        pass
    with pytest.raises(ZeroDivisionError), step("two"):
        raise ZeroDivisionError
    assert capsys.readouterr().out.splitlines() == ["one ...", "one ... 0 s, done", "two ...", "two ... 0 s, failed"]


def test_main_failing_cluster_prints_one_line() -> None:
    argv = [sys.executable, "-m", "demo.provision", "install"]
    environ = {**os.environ, "COMPOSE": "false"}
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ") and "Traceback" not in done.stderr
