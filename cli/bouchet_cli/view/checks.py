"""What the doctor found, and how it is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from bouchet_cli.client.records import Json

from .line import Line, wrapped

STYLES: Mapping[str, str] = {"pass": "green", "warn": "yellow", "fail": "bold red", "unknown": "magenta"}
VERDICT_WIDTH = 9
INDENT = " " * VERDICT_WIDTH


@dataclass(frozen=True)
class Check:
    """One look at one thing. verdict: pass, warn, fail or unknown (could not be looked at)."""

    area: str
    name: str
    verdict: str
    message: str
    fix: str = ""

    @classmethod
    def from_json(cls, raw: Json) -> Check:
        """One element of GET /v1/doctor's checks."""
        return cls(raw["area"], raw["name"], raw["verdict"], raw["message"], raw.get("fix") or "")


def check_lines(check: Check, width: int) -> Iterator[Line]:
    """Verdict and what was seen; below it what to do."""
    first, *more = wrapped(f"{check.area}: {check.name}: {check.message}", width - VERDICT_WIDTH) or [""]
    yield Line(f"{check.verdict:<{VERDICT_WIDTH}}", STYLES.get(check.verdict, "")).append(first)
    yield from (Line(INDENT + part) for part in more)
    if check.fix:
        yield from (Line(INDENT + part, "dim") for part in wrapped(f"-> {check.fix}", width - VERDICT_WIDTH))


def summary(checks: Sequence[Check]) -> str:
    """`21 passed, 2 warnings, 1 failed, 3 unknown`."""
    counts = {verdict: sum(c.verdict == verdict for c in checks) for verdict in STYLES}
    words = {"pass": "passed", "warn": "warnings", "fail": "failed", "unknown": "unknown"}
    return ", ".join(f"{count} {words[verdict]}" for verdict, count in counts.items() if count or verdict == "pass")


def report_json(checks: Sequence[Check], version: str) -> Json:
    """What `--json` prints: as GET /v1/doctor answers, with the checks of this machine in front."""
    return {"version": version, "checks": [asdict(check) for check in checks]}
