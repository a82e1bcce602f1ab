"""`bouchet setup` up to the local services: what it asks, what it writes, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

from bouchet_cli.client.env_edit import read_values
from bouchet_cli.commands.setup import STEPS

from tests.cli.harness import Bouchet, one_line_error


def settings(folder: Path) -> dict[str, str]:
    return read_values(folder / "own.env")


def test_known_cluster_gets_an_alias_and_a_directory(person: Bouchet, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("a key")
    with person.terminal("setup") as tty:
        tty.until("1. yale: A cluster")
        tty.type("1\n")
        tty.until("Your user name")
        tty.type("ngw23\n")
        tty.until("(yes/no)")
        tty.type("\n")
        tty.until("Directory for weights")
        tty.type("2\n")
        status, rest = tty.rest()
    # the `make up` of this machine fails
    assert status == 1 and "`make up` failed" in rest
    config = (tmp_path / ".ssh" / "config").read_text()
    assert "Host yale\n  HostName login.yale.example\n  User ngw23\n" in config
    found = settings(tmp_path)
    assert (found["BOUCHET_HOST"], found["BOUCHET_SITE"]) == ("yale", "yale")
    assert found["BOUCHET_PROJECT_DIR"].startswith(f"{tmp_path}/project_pi_cd34/")


def test_second_run_asks_nothing_again(person: Bouchet, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("a key")
    answers = ("--cluster", "yale", "--user", "me", "--project-dir", str(tmp_path / "project_pi_ab12" / "me"), "--yes")
    first = person("setup", *answers)
    assert first.status == 1 and "`make up` failed" in first.err, first.err
    again = person("setup")
    assert again.status == 1 and "`make up` failed" in again.err
    assert "choose the cluster: done" in again.err and "choose your directory on the cluster: done" in again.err


def test_unknown_cluster_is_probed(person: Bouchet, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("a key")
    done = person("setup", "--cluster", "other", "--project-dir", "~/x", "--yes")
    assert done.status == 1 and "`make up` failed" in done.err, done.err
    assert settings(tmp_path)["BOUCHET_SITE"] == "other"
    assert "gpu_h200" in (tmp_path / "sites" / "other.yaml").read_text()


def test_questions_without_a_terminal_name_their_option(person: Bouchet) -> None:
    done = person("setup")
    assert done.status == 2 and "--cluster" in done.err


def test_wrong_answers_are_sentences(person: Bouchet, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("a key")
    assert "is not an alias" in person("setup", "--cluster", "me@host", "--yes").err
    for directory in ("somewhere", "~", "~/", "~other/x", "/", "/a b", "$HOME/x"):
        done = person("setup", "--cluster", "yale", "--user", "me", "--project-dir", directory, "--yes")
        assert done.status == 1 and "is not a path" in done.err, directory


def test_every_step_can_be_typed_by_hand(person: Bouchet) -> None:
    rows = json.loads(person("setup", "--steps", "--json").out)["steps"]
    assert len(rows) == len(STEPS) and all(row["by_hand"] for row in rows)
    assert person("setup", "--steps").out.count("\n") == 2 * len(STEPS)
    assert one_line_error(person("setup", "--json"), 2)
