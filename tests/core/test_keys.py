"""Secrets: read whole or refused, keys derived alike on both sides."""

from pathlib import Path

import pytest
from bouchet_core.errors import ConfigurationError
from bouchet_core.keys import serving_key
from bouchet_core.settings import read_secret


def test_a_secret_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    assert read_secret(tmp_path, "token") == "s3cret"


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_missing_or_empty_secret_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigurationError, match="make up"):
        read_secret(tmp_path, "token")


def test_each_job_has_its_own_key() -> None:
    keys = {serving_key("s", "job-1"), serving_key("s", "job-2"), serving_key("t", "job-1")}
    assert len(keys) == 3
    assert serving_key("s", "job-1") in keys
