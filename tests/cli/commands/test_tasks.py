"""`bouchet tasks` and `bouchet orphans`. The rest needs a worker: tests/contracts."""

from __future__ import annotations

import json

import pytest

from tests.cli.harness import Bouchet, one_line_error


def test_tasks_without_failures_is_empty(bouchet: Bouchet) -> None:
    assert bouchet("tasks").status == 0
    assert json.loads(bouchet("tasks", "--json").out) == {"tasks": []}


@pytest.mark.parametrize("option", ["--retry", "--drop"])
def test_tasks_of_an_unknown_id_fail(bouchet: Bouchet, option: str) -> None:
    assert one_line_error(bouchet("tasks", option, "nosuch"), 3)


@pytest.mark.parametrize("option", ["--adopt", "--cancel"])
@pytest.mark.parametrize("job", ["x", "-1", "0", "9" * 14, "٣"])
def test_orphans_refuse_what_is_not_a_job_id(bouchet: Bouchet, option: str, job: str) -> None:
    assert one_line_error(bouchet("orphans", f"{option}={job}"), 2)
