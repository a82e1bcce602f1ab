"""The month as a page to print: people, models, days, GPU hours and charge. No scripts; all text is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from bouchet_core.usage import UsageSummary
from bouchet_core.values import is_seen

from .accounting_views import AccountingSummary
from .gpu_views import GpuSummary
from .periods import DateRange

STYLE = """
:root { color-scheme: light dark; font: 14px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; } .note { color: GrayText; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid; }
th, td { border-color: color-mix(in srgb, currentColor 20%, transparent); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
tfoot td { font-weight: 600; border-bottom: 0; }
@media print {
  :root { color-scheme: light; font-size: 10pt; } body { margin: 0; max-width: none; }
  h2 { break-after: avoid; } tr { break-inside: avoid; } thead { display: table-header-group; }
  form { display: none; }
}
@page { margin: 18mm 15mm; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# no script, no request to another host, no frame around it
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class MonthReport:
    """What the page shows."""

    site: str
    span: DateRange
    made_at: datetime
    people: Sequence[UsageSummary]
    models: Sequence[UsageSummary]
    days: Sequence[UsageSummary]
    total: UsageSummary
    gpu_models: Sequence[GpuSummary]
    gpu_types: Sequence[GpuSummary]
    gpu_total: GpuSummary
    accounting: AccountingSummary
    money: str = ""


def render_page(report: MonthReport) -> str:
    """Render the page."""
    span, made = report.span, report.made_at.astimezone(report.span.zone)
    title = f"Usage of language models, {span.first} to {span.last}"
    parts = [
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{as_text(title)}</title>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<style>{STYLE}</style></head><body><main><h1>{as_text(title)}</h1>",
        f"<p class=note>{as_text(report.site)}, days of {as_text(str(span.zone))}, as of {made:%Y-%m-%d %H:%M}</p>",
        _months(span),
        f"<p>{_sentence(report)}</p>",
        _requests_table("People", "Key", report.people, report.total),
        _requests_table("Models", "Model", report.models, report.total),
        _gpu_table("GPU hours by model", "Model", report.gpu_models, report.gpu_total),
        _gpu_table("GPU hours by type", "GPU", report.gpu_types, report.gpu_total),
        f"<p class=note>{as_text(accounting_sentence(report.accounting))}</p>",
        _requests_table("Days", "Day", report.days, report.total),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def as_text(text: str) -> str:
    """Return text for a page: a name that a client invents stays text, and control characters are replaced."""
    return escape("".join(one if is_seen(one) else "\ufffd" for one in text))


def accounting_sentence(found: AccountingSummary) -> str:
    """Return how the hours compare with Slurm's own accounting."""
    if not found.jobs or found.asked_at is None:
        return "These hours have not been compared with Slurm's accounting yet."
    jobs = f"{found.jobs} ended job{'s' if found.jobs != 1 else ''}"
    more = "more" if found.difference_s >= 0 else "less"
    return (
        f"Compared with Slurm's accounting on {found.asked_at:%Y-%m-%d %H:%M}: {jobs}, "
        f"{found.measured_gpu_hours:,.2f} GPU hours here and {found.accounted_gpu_hours:,.2f} there, "
        f"{abs(found.difference_s):,.0f} GPU seconds {more} here."
    )


def _sentence(report: MonthReport) -> str:
    total, gpu = report.total, report.gpu_total
    charge = f", charged {gpu.charge:,.0f} {as_text(gpu.charge_unit)}" if gpu.charge is not None else ""
    idle = f", {gpu.idle_share:.0%} of it idle" if gpu.idle_share is not None else ""
    money = f" ({as_text(report.money)})" if report.money else ""
    return (
        f"{total.requests:,} requests, {total.output_tokens:,} output tokens, {gpu.gpu_hours:,.1f} GPU hours{idle}"
        f"{charge}{money}."
    )


def _months(span: DateRange) -> str:
    return (
        "<form method=get><p><label>Month <input name=month type=month "
        f"value='{span.first:%Y-%m}'></label> <input type=hidden name=zone value='{as_text(str(span.zone))}'>"
        "<button>Show</button></p></form>"
    )


def _requests_table(title: str, first: str, lines: Sequence[UsageSummary], total: UsageSummary) -> str:
    heads = (first, "Requests", "Input", "Cached", "Output", "Tokens/s", "Errors")
    return _table(title, heads, [_request_cells(line) for line in lines], _request_cells(total))


def _request_cells(line: UsageSummary) -> tuple[str, ...]:
    speed = f"{line.tokens_per_second:,.0f}" if line.tokens_per_second is not None else "–"
    counts = (line.requests, line.input_tokens, line.cached_tokens, line.output_tokens)
    return line.name, *(f"{count:,}" for count in counts), speed, f"{line.errors:,}"


def _gpu_table(title: str, first: str, lines: Sequence[GpuSummary], total: GpuSummary) -> str:
    heads = (first, "Jobs", "GPU hours", "Starting", "Serving", "Idle", "Charge")
    return _table(title, heads, [_gpu_cells(line) for line in lines], _gpu_cells(total))


def _gpu_cells(line: GpuSummary) -> tuple[str, ...]:
    hours = (line.gpu_hours, line.starting_hours, line.serving_hours, line.idle_hours)
    charge = f"{line.charge:,.0f} {line.charge_unit}" if line.charge is not None else "–"
    return line.name or "–", f"{line.jobs:,}", *(f"{one:,.2f}" for one in hours), charge


def _table(title: str, heads: Iterable[str], rows: Sequence[tuple[str, ...]], foot: tuple[str, ...]) -> str:
    if not rows:
        return f"<h2>{as_text(title)}</h2><p class=note>Nothing in this time.</p>"
    head = "".join(f"<th scope=col>{as_text(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{as_text(text)}</td>" for text in row) + "</tr>" for row in rows)
    total = "".join(f"<td>{as_text(text)}</td>" for text in ("Total", *foot[1:]))
    return (
        f"<h2>{as_text(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f"<tfoot><tr>{total}</tr></tfoot></table>"
    )
