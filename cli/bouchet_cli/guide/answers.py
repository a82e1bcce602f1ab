"""Answers of a run of `bouchet setup` that was stopped, in a private file beside .env, until they are put to use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bouchet_cli.client.env_edit import replace_file


@dataclass(frozen=True)
class KeptAnswers:
    """The answers by their questions. host: the cluster that .env names now; answers about another one do not count."""

    path: Path
    host: str

    def get(self, question: str) -> str:
        """Return the answer, empty where there is none."""
        return self._read().get(question, "")

    def keep(self, question: str, answer: str) -> None:
        """Keep an answer. Raises CommandError where the file cannot be written."""
        self._write({**self._read(), question: answer})

    def forget(self, questions: Iterable[str]) -> None:
        """Remove the answers to these questions."""
        kept = self._read()
        left = {question: answer for question, answer in kept.items() if question not in set(questions)}
        if left != kept:
            self._write(left)

    def clear(self) -> None:
        """Remove all answers."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> Mapping[str, str]:
        try:
            raw = json.loads(self.path.read_bytes())
            return {
                str(question): str(answer) for question, answer in raw["answers"].items() if raw["host"] == self.host
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # a file of another version, or cut off: what it had is asked for again
            return {}

    def _write(self, answers: Mapping[str, str]) -> None:
        replace_file(self.path, json.dumps({"host": self.host, "answers": dict(answers)}, ensure_ascii=False) + "\n")
