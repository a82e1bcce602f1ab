"""GET /v1/doctor: what is well and what is not, from Redis to the cluster's disks."""

from __future__ import annotations

from bouchet_core.doctor import DoctorReport
from fastapi import APIRouter

from bouchet_api.dependencies import PartsDep
from bouchet_api.doctor import checks_of
from bouchet_api.openapi import examples
from bouchet_api.version import VERSION

router = APIRouter(tags=["doctor"])
SHOWN = {"application/json": {"example": examples.REPORT}}


@router.get("/v1/doctor", responses={200: {"content": SHOWN}})
def look_everywhere(parts: PartsDep) -> DoctorReport:
    """Looks at everything; takes some seconds. What is down is a failed check, not an error of this request."""
    return DoctorReport(version=VERSION, checks=tuple(checks_of(parts)))
