"""Every file of ours says in a sentence what it is about, and the sentence is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from setup.file_map import first_sentence, print_map, sentences

ROOT = Path(__file__).parents[2]


def test_every_file_has_a_sentence() -> None:
    found = dict(sentences(ROOT))
    assert len(found) > 200
    assert [path for path, sentence in found.items() if not sentence] == []


def test_a_word_finds_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    print_map(ROOT, "ROUTING table")
    assert "services/proxy/bouchet_proxy/routing/watcher.py  " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ('"""One.\n\nMore."""', ".py", "One."),
        ("x = 1", ".py", ""),
        ("#!/bin/bash\n# Does it.\n# And more", ".sh", "Does it."),
    ],
)
def test_the_sentence(text: str, kind: str, sentence: str) -> None:
    assert first_sentence(text, kind) == sentence
