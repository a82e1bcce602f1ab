"""Names of files on the cluster, and the bundle of job scripts."""

from __future__ import annotations

import pytest
from bouchet_core.config.job_scripts import ScriptBundle, load_scripts
from bouchet_core.errors import ConfigurationError
from bouchet_worker.paths import SERVE_SCRIPT, RemotePaths

from .scenario import REPOSITORY


def test_remote_paths_are_below_the_root() -> None:
    paths = RemotePaths("~/project/bouchet-llm")
    assert paths.scripts("0123456789ab") == "~/project/bouchet-llm/remote/0123456789ab"
    assert paths.record("bouchet-a-1") == f"{paths.job('bouchet-a-1')}/record.json"
    assert paths.log("%j") == "~/project/bouchet-llm/logs/%j.log"
    assert paths.connection(7) == "~/project/bouchet-llm/logs/connection-7.json"
    assert paths.end(7) == "~/project/bouchet-llm/logs/end-7.json"


def test_bundle_digest_depends_on_content(scripts: ScriptBundle) -> None:
    changed = ScriptBundle({**scripts.files, SERVE_SCRIPT: b"other"})
    assert len(scripts.digest) == 12 and scripts.digest != changed.digest


def test_load_scripts_reads_all_folders(scripts: ScriptBundle) -> None:
    assert {SERVE_SCRIPT, "batch.sbatch", "list_models.py", "job_files.py"} <= scripts.files.keys()


def test_load_scripts_without_files_raises() -> None:
    with pytest.raises(ConfigurationError, match="build the images again"):
        load_scripts(REPOSITORY / "nowhere")
