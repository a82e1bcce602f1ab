"""What the ledger is made of: entries about jobs, as the worker appends them and the API stores them."""

from .entries import AccountingEntry, JobEntry, JobSpan, LedgerEntry, SpanKind, parse_entry
from .measure import JobMeasure, advance

__all__ = [
    "AccountingEntry",
    "JobEntry",
    "JobMeasure",
    "JobSpan",
    "LedgerEntry",
    "SpanKind",
    "advance",
    "parse_entry",
]
