"""What the ledger is made of: entries about jobs, as the worker appends them and the API stores them."""

from .entries import MOST_PAUSES, AccountingEntry, JobEntry, JobSpan, LedgerEntry, Pause, SpanKind, parse_entry
from .measure import JobMeasure, advance
from .pauses import with_pauses

__all__ = [
    "MOST_PAUSES",
    "AccountingEntry",
    "JobEntry",
    "JobMeasure",
    "JobSpan",
    "LedgerEntry",
    "Pause",
    "SpanKind",
    "advance",
    "parse_entry",
    "with_pauses",
]
