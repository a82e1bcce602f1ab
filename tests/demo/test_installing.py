"""What is made anew, and what is left alone."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest

from demo.commands import CommandFailedError, run, step
from demo.installing import IMAGE, MADE_FROM, MANIFEST, Cluster, Contents, install
from demo.layout import DEMO_MODELS, PLUGIN_FILES, PLUGINS, Layout, parse_flat_yaml
from demo.staging import copy_changed, stage_files

ROOT = Path(__file__).parents[2]


class FakeCluster(Cluster):
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
def layout(tmp_path: Path) -> Layout:
    return Layout(ROOT, tmp_path / "staging")


def finished(layout: Layout) -> Contents:
    files: Contents = {str(IMAGE): "SIF", str(MANIFEST): f'{{"recipe_sha256": "{layout.image_recipe()}"}}'}
    files |= {str(model.folder / MADE_FROM): f"{layout.model_recipe(model)}\n" for model in DEMO_MODELS}
    return files | {str(PLUGINS / name): (layout.model_sources / name).read_text() for name in PLUGIN_FILES}


def test_nothing_is_run_when_all_is_there(layout: Layout) -> None:
    cluster = FakeCluster(finished(layout))
    install(layout, cluster)
    assert not cluster.jobs and not cluster.asked


def test_an_empty_cluster_gets_the_image_first(layout: Layout) -> None:
    cluster = FakeCluster({})
    install(layout, cluster)
    assert cluster.jobs[0].startswith("build.sh")
    assert {job.split()[1] for job in cluster.jobs[1:]} == {model.script for model in DEMO_MODELS}
    assert cluster.asked[0][0] == "install"


@pytest.mark.parametrize("path", [IMAGE, MANIFEST])
def test_an_image_without_its_manifest_is_built_again(layout: Layout, path: PurePosixPath) -> None:
    cluster = FakeCluster({**finished(layout), str(path): None})
    install(layout, cluster)
    assert [job.split()[0] for job in cluster.jobs] == ["build.sh"]


def test_a_model_made_from_something_else_is_made_again(layout: Layout) -> None:
    cluster = FakeCluster({**finished(layout), str(DEMO_MODELS[0].folder / MADE_FROM): "older\n"})
    install(layout, cluster)
    assert [job.split()[1] for job in cluster.jobs] == [DEMO_MODELS[0].script]


def test_the_recipe_is_what_the_build_script_computes(layout: Layout) -> None:
    stage_files(layout)
    staged = layout.staging / "cpu-0.32.0"
    found = r"^sha256_of\(\)[^\n]*$|^recipe_sha256\(\) \{\n.*?^\}$"
    functions = re.findall(found, (staged / "build.sh").read_text(), re.M | re.S)
    script = "\n".join([f"pin_folder={staged}", *functions, "recipe_sha256"])
    assert run(["bash", "-euc", script], timeout_s=10).strip() == layout.image_recipe()


def test_staged_files_can_be_read_by_other_users(layout: Layout) -> None:
    stage_files(layout)
    assert (layout.staging / "jobs/run_job.sh").stat().st_mode & 0o777 == 0o755
    assert (layout.staging / "models/scripted.py").stat().st_mode & 0o777 == 0o644


def test_files_that_did_not_change_are_left_alone(tmp_path: Path) -> None:
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


def test_the_pin_says_what_its_wheels_run_on(layout: Layout) -> None:
    pin = layout.pin()
    assert pin.facts["name"] == pin.folder.name
    assert pin.facts["cuda"] == ""
    assert (pin.target.python, pin.target.machine) == ("3.11", "x86_64")


def test_flat_yaml() -> None:
    assert parse_flat_yaml('# c: d\na: "1.0"\nb: debian:x\nc: null\n') == {"a": "1.0", "b": "debian:x", "c": ""}


def test_a_failed_command_shows_the_end_of_what_it_said() -> None:
    with pytest.raises(CommandFailedError) as caught:
        run(["bash", "-c", "seq 100; echo last words >&2; exit 3"], timeout_s=10)
    assert caught.value.exit_status == 3
    assert "last words" in str(caught.value) and "\n50\n" not in str(caught.value)


def test_a_missing_program_and_an_endless_one_are_failures_too() -> None:
    with pytest.raises(CommandFailedError, match="is not installed"):
        run(["no-such-program"], timeout_s=1)
    with pytest.raises(CommandFailedError, match="no end after"):
        run(["sleep", "9"], timeout_s=0.1)


def test_a_step_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with step("one"):
        pass
    with pytest.raises(ZeroDivisionError), step("two"):
        raise ZeroDivisionError
    assert capsys.readouterr().out.splitlines() == ["one ...", "one ... 0 s, done", "two ...", "two ... 0 s, failed"]
