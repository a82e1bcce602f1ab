"""The tables of the ledger. Times are Unix seconds in UTC; days of a time zone are made when they are asked for.

`migrations/` makes them; a test compares what it makes with what is here.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text, text

# Sums are kept for each quarter of an hour, because time zones differ by whole ones, and for each UTC day, so that a
# month is made of thirty rows and of the quarters at its two ends.
QUARTER_S, DAY_S = 900, 86_400
# counts of a sum, beside its number of requests
COUNTS = ("errors", "input", "cached", "output", "streams", "first_ms", "made", "made_ms", "continued")

# of spans
KINDS = ("queued", "starting", "serving", "idle", "draining")
# written out in the index and in the query: a database takes a partial index only where it sees the same condition
HAS_FAILED = text("error != ''")

metadata = MetaData()

requests = Table(
    "requests",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("at", Double, nullable=False, comment="its end"),
    Column("key", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("session", Text, nullable=False, comment="a hash"),
    Column("endpoint", Text, nullable=False),
    Column("request_class", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text, nullable=False, comment="empty on success"),
    Column("input", BigInteger, nullable=False, comment="prompt tokens that were computed"),
    Column("cached", BigInteger, nullable=False, comment="prompt tokens of the prefix cache"),
    Column("output", BigInteger, nullable=False),
    Column("first_ms", Integer, nullable=True),
    Column("generating_ms", Integer, nullable=False),
    Column("continued", Integer, nullable=False, server_default="0", comment="jobs that went on with the answer"),
    Index("requests_by_time", "at"),
    Index("failed_requests_by_time", "at", sqlite_where=HAS_FAILED, postgresql_where=HAS_FAILED),
)

request_sums = Table(
    "request_sums",
    metadata,
    Column("by", String(16), primary_key=True, comment="key, model, deployment, class, agent, client or all"),
    Column("length", Integer, primary_key=True, autoincrement=False, comment="QUARTER_S or DAY_S"),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(300), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in COUNTS),
)

error_sums = Table(
    "error_sums_by",
    metadata,
    Column("by", String(16), primary_key=True, comment="key, model or deployment"),
    Column("start", BigInteger, primary_key=True, autoincrement=False, comment="of a quarter of an hour"),
    Column("name", String(300), primary_key=True),
    Column("error", String(100), primary_key=True),
    Column("requests", BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job", String(128), primary_key=True, comment="Slurm's name of it"),
    Column("version", BigInteger, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("slurm_id", BigInteger, nullable=True),
    Column("partition", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("gpu_type", Text, nullable=False),
    Column("nodes", Integer, nullable=False),
    Column("charge_per_gpu_hour", Double, nullable=True),
    Column("charge_unit", Text, nullable=False),
    Column("submitted_at", Double, nullable=True),
    Column("started_at", Double, nullable=True),
    Column("ended_at", Double, nullable=True),
    Column("ending", Text, nullable=False),
    Column("accounted_at", Double, nullable=True, comment="when sacct was asked last"),
    Column("accounted_gpu_s", Double, nullable=True, comment="GPU seconds as sacct has them"),
    Column("accounted_runs", Integer, nullable=True),
    Column("accounted_state", Text, nullable=True),
    # made of its spans whenever one changes, so that a view reads one row of each job that it has wholly
    Column("first_span", Double, nullable=True, comment="when its first span begins"),
    Column("last_span", Double, nullable=True, comment="when its last span has ended, null while one lasts"),
    *(Column(f"{kind}_s", Double, nullable=False, server_default="0") for kind in KINDS),
    Index("jobs_by_end", "ended_at"),
    Index("jobs_by_first_span", "first_span"),
)

spans = Table(
    "spans",
    metadata,
    Column("job", String(128), primary_key=True),
    Column("start", Double, primary_key=True),
    Column("kind", String(16), nullable=False, comment="queued, starting, serving, idle or draining"),
    Column("end", Double, nullable=True, comment="null while it lasts"),
    Index("spans_by_end", "end"),
)
