"""The policy of a deployment: when it runs, for how long, how often, and for how much. Pure: no socket, no clock."""

from .model import OFF, Budget, BudgetUnit, Hours, Keep, Period, Policy, Replicas, WeeklyWindow
from .parsing import parse_budget, parse_hours, parse_keep, parse_moment, parse_replicas

__all__ = [
    "OFF",
    "Budget",
    "BudgetUnit",
    "Hours",
    "Keep",
    "Period",
    "Policy",
    "Replicas",
    "WeeklyWindow",
    "parse_budget",
    "parse_hours",
    "parse_keep",
    "parse_moment",
    "parse_replicas",
]
