"""The check of the login node: directories, images, models, weights, quota."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import image_file
import pytest

from tests.remote.compute_node import BOTH, OLDEST, SCRIPTS, write_image


@pytest.mark.parametrize("python", BOTH)
def test_probe_reports_directories_images_models_and_quota(tmp_path: Path, python: str) -> None:
    image = write_image(tmp_path / "pin.sif")
    digest = Path(f"{image}.sha256").read_text().split()[0]
    known = image.stat()
    hashes = tmp_path / "hashes"
    hashes.mkdir()
    (hashes / image_file.hash_note_name(known)).write_text(f"{digest}\n")
    models = tmp_path / "models"
    (models / "org" / "one").mkdir(parents=True)
    (models / "org" / "one" / "config.json").write_text("{}")
    (models / "models--org--two").mkdir()
    new = tmp_path / "new" / "er"
    request: dict[str, Any] = {
        "directories": [str(tmp_path), str(new), "~/"],
        "images": [str(image), str(tmp_path / "none.sif")],
        "hashes": str(hashes),
        "models_dir": str(models),
        "models": ["org/one", "org/two", "org/three"],
        "quota": ["echo", "4096"],
        "weights": [["org/one", None], ["org/three", None]],
    }
    argv = [python, str(SCRIPTS / "probe_login_node.py")]
    done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["directories"][str(tmp_path)]["exists"] is True
    missing = result["directories"][str(new)]
    assert (missing["exists"], missing["writable"], missing["nearest"]) == (False, True, str(tmp_path))
    assert result["images"][str(image)] == {
        "exists": True, "readable": True, "size": known.st_size, "recorded": digest, "computed": digest,
    }  # fmt: skip
    assert result["images"][str(tmp_path / "none.sif")]["exists"] is False
    assert (result["models"], result["quota"], result["quota_left"]) == (["org/one", "org/two"], "4096", 4096)
    assert result["weights"]["org/one"]["weights"]["files"] == 1 and result["weights"]["org/three"] is None


@pytest.mark.parametrize(
    ("modes", "exposed"),
    [
        ((0o755, 0o700), ""),
        ((0o755, 0o770), "writable for its group"),
        ((0o777, 0o700), "writable for all"),
        ((0o1777, 0o700), ""),
        ((0o755, 0o1777), "writable for all"),
    ],
)
def test_folder_that_others_can_replace_is_named(tmp_path: Path, modes: tuple[int, int], exposed: str) -> None:
    root = tmp_path / "project" / "bouchet-llm"
    root.mkdir(parents=True)
    root.parent.chmod(modes[0])
    root.chmod(modes[1])
    request = {"directories": [str(root)], "images": [], "hashes": "~", "models_dir": "~", "models": [], "quota": []}
    argv = [OLDEST, str(SCRIPTS / "probe_login_node.py")]
    done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["directories"][str(root)]["exposed"]
    assert exposed in found and bool(exposed) == bool(found)
