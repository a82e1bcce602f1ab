"""Answers that went on from another job, errors by model and deployment, an index of failed requests, sums of jobs."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

QUARTER_S = 900
KINDS = ("queued", "starting", "serving", "idle", "draining")


def upgrade() -> None:
    """Add the columns and the index, and sum the errors again that single requests still tell."""
    op.add_column("requests", sa.Column("continued", sa.Integer, nullable=False, server_default="0"))
    op.add_column("request_sums", sa.Column("continued", sa.BigInteger, nullable=False, server_default="0"))
    failed = sa.text("error != ''")
    op.create_index("failed_requests_by_time", "requests", ["at"], sqlite_where=failed, postgresql_where=failed)
    sums = op.create_table(
        "error_sums_by",
        sa.Column("by", sa.String(16), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("error", sa.String(100), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
    )
    op.execute(
        """INSERT INTO error_sums_by ("by", "start", name, error, requests)
        SELECT 'key', "start", "key", error, requests FROM error_sums"""
    )
    _sum_errors(sums)
    _sum_jobs()
    op.drop_table("error_sums")


def _sum_jobs() -> None:
    """Add to each job what its spans come to."""
    for name in ("first_span", "last_span"):
        op.add_column("jobs", sa.Column(name, sa.Double, nullable=True))
    for kind in KINDS:
        op.add_column("jobs", sa.Column(f"{kind}_s", sa.Double, nullable=False, server_default="0"))
    op.create_index("jobs_by_first_span", "jobs", ["first_span"])
    of_job = "FROM spans WHERE spans.job = jobs.job"
    sums = ", ".join(
        f"""{kind}_s = (SELECT coalesce(sum(spans."end" - spans."start"), 0) {of_job} AND kind = '{kind}')"""
        for kind in KINDS
    )
    op.execute(
        f"""UPDATE jobs SET {sums}, first_span = (SELECT min(spans."start") {of_job}),
        last_span = (SELECT CASE WHEN count(*) = count(spans."end") THEN max(spans."end") END {of_job})"""
    )


def _sum_errors(sums: sa.Table) -> None:
    """Sum by model and deployment what single requests tell."""
    found = op.get_bind().execute(sa.text("SELECT at, model, deployment, error FROM requests WHERE error != ''"))
    counts: Counter[tuple[str, int, str, str]] = Counter()
    for at, model, deployment, error in found:
        for by, name in (("model", model), ("deployment", deployment)):
            if name:
                counts[by, int(at) // QUARTER_S * QUARTER_S, name, error[:100]] += 1
    rows = [{"by": b, "start": s, "name": n, "error": e, "requests": count} for (b, s, n, e), count in counts.items()]
    if rows:
        op.bulk_insert(sums, rows)
