"""Requests, their sums, jobs and spans: the first tables of the ledger.

A migration never changes once it is released: it names every column itself instead of using tables.py.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNTS = ("errors", "input", "cached", "output", "streams", "first_ms", "made", "made_ms")
TEXTS = ("key", "model", "deployment", "job", "session", "endpoint", "request_class", "agent", "client")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "requests",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in TEXTS),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("input", "cached", "output")),
        sa.Column("first_ms", sa.Integer, nullable=True),
        sa.Column("generating_ms", sa.Integer, nullable=False),
    )
    op.create_index("requests_by_time", "requests", ["at"])
    op.create_table(
        "request_sums",
        sa.Column("by", sa.String(16), primary_key=True),
        sa.Column("length", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(300), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("requests", *COUNTS)),
    )
    op.create_table(
        "error_sums",
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(300), primary_key=True),
        sa.Column("error", sa.String(100), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
    )
    _create_job_tables()


def _create_job_tables() -> None:
    op.create_table(
        "jobs",
        sa.Column("job", sa.String(128), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("deployment", "model", "alias")),
        sa.Column("slurm_id", sa.BigInteger, nullable=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("partition", "account")),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("gpu_type", sa.Text, nullable=False),
        sa.Column("nodes", sa.Integer, nullable=False),
        sa.Column("charge_per_gpu_hour", sa.Double, nullable=True),
        sa.Column("charge_unit", sa.Text, nullable=False),
        *(sa.Column(name, sa.Double, nullable=True) for name in ("submitted_at", "started_at", "ended_at")),
        sa.Column("ending", sa.Text, nullable=False),
        *(sa.Column(name, sa.Double, nullable=True) for name in ("accounted_at", "accounted_gpu_s")),
        sa.Column("accounted_runs", sa.Integer, nullable=True),
        sa.Column("accounted_state", sa.Text, nullable=True),
    )
    op.create_index("jobs_by_end", "jobs", ["ended_at"])
    op.create_table(
        "spans",
        sa.Column("job", sa.String(128), primary_key=True),
        sa.Column("start", sa.Double, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("end", sa.Double, nullable=True),
    )
    op.create_index("spans_by_end", "spans", ["end"])
