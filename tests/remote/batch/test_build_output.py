"""What is read of an image build's output."""

from __future__ import annotations

import pytest
from build_output import explain_failure, update_progress


def test_update_progress_follows_steps_and_counts() -> None:
    known: dict[str, object] = {}
    seen = []
    for line in (
        "bouchet: step base",
        "INFO:    Extracting OCI image...",
        "bouchet: step packages",
        "bouchet: packages 3 of 140",
        "bouchet: packages 140 of 140",
        "bouchet: step compile",
        "bouchet: packages 140 of 140",
        "bouchet: compile 7 of 76",
        "bouchet: step test",
        "INFO:    Creating SIF file...",
        "bouchet: step hash",
        "bouchet: step unknown",
    ):
        new = update_progress(line, known)
        if new != known:
            seen.append((new["stage"], new["done"], new["of"]))
        known = new
    assert seen == [
        *[("base", 0, 0), ("packages", 0, 0), ("packages", 3, 140), ("packages", 140, 140), ("compile", 0, 0)],
        *[("compile", 7, 76), ("test", 0, 0), ("squash", 0, 0), ("hash", 0, 0)],
    ]


@pytest.mark.parametrize(
    ("line", "stage", "kind", "message"),
    [
        ("bouchet: refused pin.yaml says `oci: x`", "base", "refused", "pin.yaml says"),
        ("tar: write error: No space left on device", "packages", "disk_full", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "packages", "wrong_hash", "does not have the hash"),
        (
            "ERROR: No matching distribution found for torch==2.13.0+cpu",
            "packages",
            "missing_wheel",
            "torch==2.13.0+cpu",
        ),
        (
            "dial tcp: lookup registry on 127.0.0.11:53: i/o timeout",
            "base",
            "no_network",
            "bouchet image build tiny --from",
        ),
        ("ImportError: libcuda.so.1: cannot open", "test", "test_failed", "does not work"),
        ("FATAL:   While performing build: odd", "squash", "build_failed", "While performing build: odd"),
    ],
)
def test_explain_failure_gives_kind_and_message(line: str, stage: str, kind: str, message: str) -> None:
    found, sentence = explain_failure(["INFO:    Starting build...", line, "bouchet: step x"], stage, "tiny", None)
    assert found == kind and message in sentence
