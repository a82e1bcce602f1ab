"""What `bouchet doctor` finds out, check by check."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from .values import FrozenModel


class Verdict(StrEnum):
    """What came of a check. What could not be looked at is unknown, never passed."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class DoctorCheck(FrozenModel):
    """One look at one thing."""

    area: str = Field(description="stack, ssh, slurm, partitions, storage, images, gpus or catalog")
    name: str
    verdict: Verdict
    message: str = Field(description="what was seen")
    fix: str = Field(default="", description="what to do about it; empty where nothing need be done")


class DoctorReport(FrozenModel):
    """All checks of one look."""

    version: str = Field(description="of the api")
    checks: tuple[DoctorCheck, ...]
