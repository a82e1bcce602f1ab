"""What pip-audit reports of the locks, as a table; a database that knows nothing has audited nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from setup.errors import SetupError
from setup.progress import Progress
from setup.python import audit
from setup.python.audit import Audit, Finding, Report, audit_argv, parse_report, render_audit

OLD = {"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "a\nb"}
SKIPPED = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1)"}


def printed(*dependencies: object) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_parse_report_counts_what_was_asked_and_what_is_unknown() -> None:
    text = printed(
        {"name": "jinja2", "version": "2.4.1", "vulns": [OLD]}, {"name": "x", "version": "1", "vulns": []}, SKIPPED
    )
    finding = Finding("jinja2", "2.4.1", "PYSEC-2019-217", ("2.10.1",))
    assert parse_report(text) == Report(asked=2, unknown=("ours",), findings=(finding,))


@pytest.mark.parametrize("text", ["", "Traceback", "[]", "{}", '{"dependencies": [{"name": "x"}]}'])
def test_parse_report_refuses_other_text(text: str) -> None:
    with pytest.raises(ValueError):
        parse_report(text)


def test_render_audit_shows_each_finding_once_with_its_locks() -> None:
    finding = Finding("jinja2", "2.4.1", "PYSEC-2019-217", ("2.10.1",))
    report = Report(3, ("ours",), (finding,))
    shown = render_audit(Audit({"a.lock": report, "b.lock": report})).splitlines()
    assert shown[1].split() == ["jinja2", "2.4.1", "PYSEC-2019-217", "2.10.1", "a.lock,", "b.lock"]
    assert shown[2:] == [
        "6 packages of 2 locks asked for, 1 known vulnerabilities",
        "not known there, so not audited: ours",
    ]


def test_audit_argv_resolves_and_installs_nothing() -> None:
    argv = audit_argv(Path("pip-audit"), Path("x.lock"), "osv")
    assert {"--no-deps", "--disable-pip"} <= set(argv)


@pytest.mark.parametrize("text", [None, "", printed(SKIPPED)], ids=["no program", "no answer", "knows nothing"])
def test_audit_without_database_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "ensure_environment", lambda *_: tmp_path / "bin" / "python")
    monkeypatch.setattr(audit, "try_run", lambda _, **_options: text)
    with Progress(io.StringIO()) as progress, pytest.raises(SetupError, match="nothing was audited"):
        audit.audit_locks(tmp_path, progress)
    assert capsys.readouterr().out == ""
