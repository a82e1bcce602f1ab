"""Running job scripts on the login node."""

from __future__ import annotations

import pytest
from bouchet_core.errors import GatewayError, RemoteCommandError, RemoteFileMissingError, UntrustedFolderError
from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import output_errors_mapped, run_script, run_script_text, scripts_staged, stage_scripts

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import MakeWorkerContext

SCRIPT = "list_models.py"


def print_output(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let every script print that text."""
    monkeypatch.setattr(slurm, "python3", lambda arguments: (0, text, ""))


def test_run_script_stages_the_bundle_and_returns_json(
    new_cluster: WorkerContext, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    print_output(slurm, monkeypatch, '{"a": 1}')
    assert run_script(new_cluster, SCRIPT, "x", request={"b": 2}) == {"a": 1}
    assert slurm.calls == [["python3", f"{new_cluster.scripts_dir}/{SCRIPT}", "x"]]
    assert slurm.stdin == '{"b": 2}'
    assert scripts_staged(new_cluster)


@pytest.mark.parametrize("text", ["", "Traceback", "[1]", "7"])
def test_run_script_with_other_output_raises(
    context: WorkerContext, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    print_output(slurm, monkeypatch, text)
    with pytest.raises(GatewayError, match=f"cannot read the output of {SCRIPT}: "):
        run_script(context, SCRIPT)


def test_run_script_that_fails_raises(context: WorkerContext) -> None:
    with pytest.raises(RemoteCommandError):
        run_script(context, "missing.py")


def test_run_script_without_staging_requires_the_bundle(
    new_cluster: WorkerContext, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    print_output(slurm, monkeypatch, "text")
    with pytest.raises(RemoteFileMissingError):
        run_script_text(new_cluster, SCRIPT, stage=False)
    assert slurm.files == {} and slurm.calls == []
    stage_scripts(new_cluster)
    assert run_script_text(new_cluster, SCRIPT, stage=False) == "text"


@pytest.mark.parametrize("error", [ValueError(), KeyError("a"), TypeError(), AttributeError()])
def test_output_errors_are_mapped_to_gateway_errors(error: Exception) -> None:
    with pytest.raises(GatewayError, match="cannot read the output"), output_errors_mapped(SCRIPT, {"a": 1}):
        raise error


@pytest.mark.parametrize("folder", ["", "/remote", "/remote/DIGEST"])
def test_scripts_in_a_folder_of_another_user_do_not_run(
    context: WorkerContext, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    print_output(slurm, monkeypatch, "{}")
    stage_scripts(context)
    slurm.foreign_folders = {context.site.root + folder.replace("DIGEST", context.scripts.digest)}
    with pytest.raises(UntrustedFolderError, match="another user"):
        run_script(context, SCRIPT)
    assert "python3" not in slurm.programs()


def test_changed_scripts_are_uploaded_again(make_context: MakeWorkerContext, slurm: FakeSlurm) -> None:
    first = make_context()
    stage_scripts(first)
    path = f"{first.scripts_dir}/{SCRIPT}"
    whole, slurm.files[path] = slurm.files[path], b"print('planted')"
    stage_scripts(make_context())
    assert slurm.files[path] == whole
    del slurm.files[path]
    stage_scripts(make_context())
    assert slurm.files[path] == whole
