"""`make audit`: asks the public advisory databases about every locked package. Optional: hashes do not depend on it.

pip-audit asks OSV, and the Python registry where OSV does not answer. A database that answers for no package is none:
then nothing was audited, and that is an error, not a pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from setup.command import try_run
from setup.errors import SetupError
from setup.progress import Progress

from .environments import ensure_environment
from .locks import LOCKS

ADVISORIES = ("osv", "pypi")
TIMEOUT_S = 15
# a whole lock, a question for each package
LOCK_TIMEOUT_S = 600
UNREACHABLE = (
    "nothing was audited: no advisory database answers from here (OSV, the Python registry). The packages are still "
    "the locked ones, by hash; run `make audit` where one can be reached"
)


@dataclass(frozen=True, order=True)
class Finding:
    """A known vulnerability of a locked package. fixed: the versions that mend it."""

    package: str
    version: str
    advisory: str
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a database says of one lock. asked: packages that it knows; unknown: those that it does not."""

    asked: int = 0
    unknown: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass
class Audit:
    """The reports of all locks, by lock."""

    reports: dict[str, Report] = field(default_factory=dict)

    @property
    def findings(self) -> dict[Finding, list[str]]:
        """Each finding, and the locks that have it."""
        found: dict[Finding, list[str]] = {}
        for lock, report in self.reports.items():
            for finding in report.findings:
                found.setdefault(finding, []).append(lock)
        return found


def parse_report(text: str) -> Report:
    """Parse pip-audit's JSON. Raises ValueError for other text."""
    asked, unknown, findings = 0, [], []
    try:
        dependencies: Sequence[Mapping[str, object]] = json.loads(text)["dependencies"]
        for one in dependencies:
            if "skip_reason" in one:
                unknown.append(str(one["name"]))
                continue
            asked += 1
            vulnerabilities = one["vulns"]
            assert isinstance(vulnerabilities, list)
            findings += [
                Finding(str(one["name"]), str(one["version"]), str(found["id"]), tuple(map(str, found["fix_versions"])))
                for found in vulnerabilities
            ]
    except (KeyError, TypeError, AssertionError) as exc:
        raise ValueError(f"pip-audit printed no report: {text[:80]!r}") from exc
    return Report(asked, tuple(unknown), tuple(sorted(findings)))


def render_audit(audit: Audit) -> str:
    """Render the findings as a table, and how much was asked."""
    rows = [
        (f"{one.package} {one.version}", one.advisory, ", ".join(one.fixed) or "-", ", ".join(locks))
        for one, locks in sorted(audit.findings.items())
    ]
    asked = sum(report.asked for report in audit.reports.values())
    unknown = sorted({name for report in audit.reports.values() for name in report.unknown})
    lines = [f"{asked} packages of {len(audit.reports)} locks asked for, {len(rows)} known vulnerabilities"]
    if unknown:
        lines.append(f"not known there, so not audited: {', '.join(unknown)}")
    if not rows:
        return "\n".join(lines)
    table = [("package", "advisory", "mended in", "locks"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    shown = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*shown, *lines])


def audit_argv(program: Path, lock: Path, advisories: str) -> list[str]:
    """Return pip-audit's command line: nothing is resolved, downloaded or installed."""
    source = ["--requirement", str(lock), "--no-deps", "--disable-pip", "--vulnerability-service", advisories]
    return [str(program), *source, "--format", "json", "--progress-spinner", "off", "--timeout", str(TIMEOUT_S)]


def audit_locks(root: Path, progress: Progress) -> None:
    """Audit all locks and print what is known. SetupError for a vulnerability, and if no database answers."""
    python = ensure_environment(
        progress, root / ".cache" / "tools" / "audit", [root / "setup" / "locks" / "audit.lock"]
    )
    program = python.parent / "pip-audit"
    for advisories in ADVISORIES:
        audit = Audit()
        for lock in LOCKS:
            with progress.step(f"{advisories}: {lock.output}"):
                report = _ask(audit_argv(program, root / lock.output, advisories))
            if report is None:
                break
            audit.reports[lock.output] = report
        else:
            progress.close()
            print(render_audit(audit))
            if audit.findings:
                raise SetupError(f"{len(audit.findings)} known vulnerabilities in locked packages; `make renew` may do")
            return
    raise SetupError(UNREACHABLE)


def _ask(argv: Sequence[str]) -> Report | None:
    """Return the database's report of one lock, None if it did not answer or knows none of its packages."""
    # pip-audit's status is 1 where it found something, and also where it failed
    text = try_run(["sh", "-c", '"$@" || true', "audit", *argv], timeout_s=LOCK_TIMEOUT_S)
    try:
        report = parse_report(text or "")
    except ValueError:
        return None
    return report if report.asked else None
