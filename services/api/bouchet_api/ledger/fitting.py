"""Values as the columns of a table can hold them, on each kind of database.

One value that a database refuses would keep its whole batch, and all that come after it, from the ledger. Texts come
from clients and from the cluster, and numbers from servers that are not ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

# of a text; a column may be shorter
LONGEST_TEXT = 300
MOST_INTEGER = 2**31 - 1
# a double holds it exactly
MOST_BIG_INTEGER = 2**53 - 1


def fitted(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with each value as its column can hold it: texts cut, numbers within bounds.

    A number that is not finite becomes None. Raises ValueError where the column needs a value.
    """
    return {name: _fitted(table.c[name], value) for name, value in row.items()}


def fitted_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return the text without NUL and without halves of characters, which PostgreSQL and UTF-8 do not have, and cut."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:longest]


def _fitted(column: sa.Column[Any], value: Any) -> Any:
    kind = column.type
    if isinstance(value, str) and isinstance(kind, sa.String):
        return fitted_text(value, min(kind.length or LONGEST_TEXT, LONGEST_TEXT))
    if isinstance(value, int) and isinstance(kind, sa.Integer):
        most = MOST_BIG_INTEGER if isinstance(kind, sa.BigInteger) else MOST_INTEGER
        return max(-most, min(value, most))
    if isinstance(value, float) and not math.isfinite(value):
        if not column.nullable:
            raise ValueError(column.name)
        return None
    return value
