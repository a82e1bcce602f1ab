"""A step of the guided setup, what the steps know together, and the questions that they ask."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bouchet_cli.client.env_edit import read_values, set_values
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.settings import PROJECT, env_file
from bouchet_cli.context import CommandContext
from bouchet_cli.site_probe.parse import ClusterFacts, parse_facts
from bouchet_cli.site_probe.remote import LoginNode
from bouchet_cli.site_probe.scripts import FACTS

from .answers import KeptAnswers

# keys of .env
HOST, SITE = "BOUCHET_HOST", "BOUCHET_SITE"
PROJECT_DIR, SCRATCH_DIR = "BOUCHET_PROJECT_DIR", "BOUCHET_SCRATCH_DIR"


@dataclass
class GuideState:
    """What the steps share. An answer is kept as soon as it is given, so that a later run asks nothing twice.

    Where a step is complete it is in .env; until then, and until the first answer of the model, in a file beside that.

    folder: of the connection's socket; given: answers from the command line; facts: None before the first login.
    """

    context: CommandContext
    folder: Path
    given: Mapping[str, str]
    assume_yes: bool = False
    facts: ClusterFacts | None = None
    model: str = ""
    asked: int = field(default=0)
    # questions that the step under way has asked
    open_questions: list[str] = field(default_factory=list)

    @property
    def env_path(self) -> Path:
        """The file of settings, .env."""
        return env_file(self.context.environment, PROJECT)

    @property
    def sites(self) -> Path:
        """The folder of site files."""
        return PROJECT / (self.context.environment.get("BOUCHET_SITE_DIR") or "sites")

    def value(self, key: str) -> str:
        """Return a setting of .env, empty where it has none."""
        return read_values(self.env_path).get(key, "")

    def save(self, **values: str) -> None:
        """Write settings into .env, which is made where there is none."""
        if not self.env_path.is_file():
            run_make(self, "env")
        set_values(self.env_path, values)

    @property
    def answers(self) -> KeptAnswers:
        """The answers of a run that was stopped."""
        return KeptAnswers(self.env_path.with_name(f"{self.env_path.name}.setup"), self.value(HOST))

    def node(self) -> LoginNode:
        """Return the login node; all scripts share one login."""
        return LoginNode(self.value(HOST).partition(",")[0], self.folder, self.context.environment)

    def cluster(self) -> ClusterFacts:
        """Return what the login node says of the cluster; logs in the first time."""
        if self.facts is None:
            node = self.node()
            self.facts = parse_facts(node.host, node.run(FACTS))
        return self.facts

    def ask(self, name: str, question: str, default: str = "", choices: Sequence[str] = ()) -> str:
        """Return an answer: from the command line, else of a run that was stopped, else typed; it is kept."""
        self.open_questions.append(question)
        before = self.answers.get(question)
        if before and not self.given.get(name):
            self.context.screen.note(f"{question}: {before}, as answered before (--{name} answers otherwise)")
            return before
        answer = self.given.get(name) or self._typed(name, question, default, choices)
        self.answers.keep(question, answer)
        return answer

    def end_step(self, *, failed: bool) -> None:
        """Note that a step is over. An answer that it failed with is asked for again by the next run."""
        if failed:
            self.answers.forget(self.open_questions)
        self.open_questions.clear()

    def _typed(self, name: str, question: str, default: str, choices: Sequence[str]) -> str:
        """Return what the person types; a number picks a choice, Enter the default."""
        if self.assume_yes and default:
            return default
        screen = self.context.screen
        if not screen.interactive:
            raise UsageError(f"not a terminal, so nothing can be asked; answer with --{name}")
        for number, choice in enumerate(choices, 1):
            screen.note(f"  {number}. {choice}")
        while True:
            self.asked += 1
            answer = screen.question(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
            if choices and answer.isdecimal():
                if 1 <= int(answer) <= len(choices):
                    return choices[int(answer) - 1]
                screen.note(f"there is no number {answer}; type one from 1 to {len(choices)}, or an answer of your own")
            elif answer:
                return answer

    def confirm(self, question: str) -> bool:
        """Return whether the person agrees; Enter does."""
        if self.assume_yes:
            return True
        return self._typed("yes", f"{question} (yes/no)", "yes", ()).lower() in ("y", "yes")


class GuideStep(ABC):
    """One step. It is skipped where `is_done`; everything that it does can be typed by hand."""

    title: str

    @abstractmethod
    def is_done(self, state: GuideState) -> bool:
        """Return whether there is nothing to do."""

    @abstractmethod
    def by_hand(self, state: GuideState) -> str:
        """Return the commands that do the same."""

    @abstractmethod
    def run(self, state: GuideState) -> None:
        """Do it. Raises CommandError with what the person has to do first."""


def run_make(state: GuideState, target: str) -> None:
    """Run `make TARGET` in the checkout, its output on this terminal."""
    argv = ["make", "--no-print-directory", "-C", str(PROJECT), target]
    try:
        done = subprocess.run(argv, env=dict(state.context.environment), check=False)
    except FileNotFoundError as exc:
        raise CommandError("this machine has no make; install it, and run `bouchet setup` again") from exc
    if done.returncode:
        raise CommandError(f"`make {target}` failed; mend what it names, and run `bouchet setup` again")
