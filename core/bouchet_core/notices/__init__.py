"""Notices: what people are notified of, and what became of each message."""

from .model import (
    EVENTS,
    MAX_TARGETS,
    MAX_TEXT,
    MAX_TITLE,
    NOTICE_AGE,
    Delivery,
    Message,
    MessageReport,
    Notice,
    NoticeKind,
    NotificationReport,
    NotifierStatus,
    TargetStatus,
    plain_text,
)

__all__ = [
    "EVENTS",
    "MAX_TARGETS",
    "MAX_TEXT",
    "MAX_TITLE",
    "NOTICE_AGE",
    "Delivery",
    "Message",
    "MessageReport",
    "Notice",
    "NoticeKind",
    "NotificationReport",
    "NotifierStatus",
    "TargetStatus",
    "plain_text",
]
