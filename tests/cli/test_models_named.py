"""Names of models of the hub, as people type and paste them."""

from __future__ import annotations

import pytest
from bouchet_cli.client.errors import UsageError
from bouchet_cli.spans import split_revision

from tests.cli.harness import Bouchet, one_line_error

PAGE = "https://huggingface.co/org/name"


@pytest.mark.parametrize(
    ("text", "revision", "expected"),
    [
        ("org/name", None, ("org/name", None)),
        ("org/name", "v1", ("org/name", "v1")),
        ("org/name@v1", None, ("org/name", "v1")),
        ("org/name@v1", "v1", ("org/name", "v1")),
        ("alias", None, ("alias", None)),
        (PAGE, None, ("org/name", None)),
        (f"{PAGE}/", None, ("org/name", None)),
        (f"{PAGE}?library=vllm#usage", None, ("org/name", None)),
        (f"{PAGE}/tree/main", None, ("org/name", "main")),
        (f"{PAGE}/blob/v1/config.json", None, ("org/name", "v1")),
        (f"{PAGE}/tree/refs%2Fpr%2F7", None, ("org/name", "refs/pr/7")),
        (f"{PAGE}/discussions/3", None, ("org/name", None)),
    ],
)
def test_split_revision_reads_names_and_pages(
    text: str, revision: str | None, expected: tuple[str, str | None]
) -> None:
    assert split_revision(text, revision) == expected


@pytest.mark.parametrize("text", ["https://huggingface.co/org", "https://huggingface.co", "http://"])
def test_split_revision_of_another_page_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not the page of a model"):
        split_revision(text, None)


def test_two_revisions_are_refused(bouchet: Bouchet) -> None:
    for words in (("models", "add", "org/name@v1"), ("download", f"{PAGE}/tree/v1")):
        done = bouchet(*words, "--revision", "v2")
        assert one_line_error(done, 2) and "leave one of them out" in done.err


def test_download_of_a_page_is_of_its_model(bouchet: Bouchet) -> None:
    page = "https://huggingface.co/Qwen/Qwen3-32B/tree/main"
    done = bouchet("download", page, "--no-wait")
    assert done.status == 0 and "Qwen/Qwen3-32B" in done.out
    (download,) = bouchet.store.downloads.page(5)
    assert (download.model, download.revision) == ("Qwen/Qwen3-32B", "main")
