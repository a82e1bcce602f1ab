"""Live figures and requests, as the dashboard and `bouchet top` show them."""

from .view import (
    MOST_ERRORS,
    MOST_REQUESTS,
    FigurePoint,
    LiveRequest,
    LiveRequests,
    SeenError,
    point_between,
    shown_text,
)

__all__ = [
    "MOST_ERRORS",
    "MOST_REQUESTS",
    "FigurePoint",
    "LiveRequest",
    "LiveRequests",
    "SeenError",
    "point_between",
    "shown_text",
]
