"""The ledger's database: opened when it is first needed, migrated, and its errors as sentences.

SQLite in a file by default, PostgreSQL where BOUCHET_DB_URL names one. Nothing here is needed to serve: while the
database does not work, entries wait in Redis.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from bouchet_core.errors import BouchetError, ConfigurationError

MIGRATIONS = Path(__file__).parent / "migrations"
FILE_NAME = "ledger.sqlite3"
# the schemes of BOUCHET_DB_URL -> SQLAlchemy's names of the drivers that are installed
DRIVERS = {"postgresql": "postgresql+pg8000", "postgres": "postgresql+pg8000", "sqlite": "sqlite+pysqlite"}
# of PostgreSQL: for a connection (one is refused at once, but a host may drop packets), and for each of its answers
ANSWER_TIMEOUT_S = 15
# ... and for each statement of a migration, which reads the whole of a large table
MIGRATION_TIMEOUT_S = 3600
BUSY_TIMEOUT_S = 5
# a database that did not work is tried again after this time, also when a request comes before
RETRY_S = 5.0
# a shorter one is part of any text
SHORTEST_PASSWORD = 4

log = logging.getLogger(__name__)


class LedgerUnavailableError(BouchetError):
    """The ledger's database does not work. Entries wait in Redis meanwhile, and serving goes on."""

    kind = "ledger_unavailable"

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the ledger cannot be used: {problem}; requests are served, and their entries wait in Redis")


class LedgerDatabase:
    """A lazily opened database. Methods raise LedgerUnavailableError.

    refused: why there is no URL, where BOUCHET_DB_URL has one that cannot be used.
    """

    def __init__(self, url: sa.URL | None, refused: str = "") -> None:
        self._url, self._refused = url, refused
        self._lock = Lock()
        self._engine: sa.Engine | None = None
        self._failed: tuple[float, LedgerUnavailableError] | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of our own."""
        return self._url is not None and self._url.get_backend_name() == "sqlite"

    @property
    def shown(self) -> str:
        """The database for people, without a password."""
        if self._url is None:
            return "the database of BOUCHET_DB_URL"
        if self.is_sqlite:
            return self._url.database or ""
        return f"PostgreSQL's {self._url.database} on {self._url.host or 'localhost'}"

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a transaction that is committed at the end of the block."""
        with self._errors_mapped(), self.engine().begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction for queries."""
        with self._errors_mapped(), self.engine().connect() as connection:
            yield connection

    def engine(self) -> sa.Engine:
        """Return the engine over the newest tables; opens and migrates the database the first time."""
        with self._lock:
            if self._engine is not None:
                return self._engine
            if self._url is None:
                raise LedgerUnavailableError(self._refused)
            if self._failed is not None and time.monotonic() - self._failed[0] < RETRY_S:
                raise self._failed[1]
            try:
                self._engine = self._open(self._url)
            except LedgerUnavailableError as exc:
                self._failed = time.monotonic(), exc
                raise
            self._failed = None
            return self._engine

    def _open(self, url: sa.URL) -> sa.Engine:
        engine = None
        try:
            with self._errors_mapped():
                engine = _make_engine(url)
                if not _is_current(engine):
                    _migrate(url)
                return engine
        except Exception as exc:
            if engine is not None:
                engine.dispose()
            if isinstance(exc, LedgerUnavailableError):
                raise
            # a host's name that is none, a port that is none: drivers and libraries have many ways to say so
            text = "its host is not a host's name" if isinstance(exc, UnicodeError) else f"{type(exc).__name__}: {exc}"
            text = self._redacted(" ".join(text.split())[:300])
            raise LedgerUnavailableError(
                f"{self.shown} cannot be opened: {text}; check BOUCHET_DB_URL in .env"
            ) from exc

    def _redacted(self, text: str) -> str:
        password = str(self._url.password or "") if self._url is not None else ""
        return text.replace(password, "***") if len(password) >= SHORTEST_PASSWORD else text

    def problem(self) -> str:
        """Return why the database does not work, empty when it does."""
        try:
            with self.read() as connection:
                connection.execute(sa.select(sa.literal(1)))
        except LedgerUnavailableError as exc:
            return exc.problem
        return ""

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = None

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as exc:
            raise LedgerUnavailableError(self._redacted(describe(exc, self.shown))) from exc
        except OSError as exc:
            raise LedgerUnavailableError(self._redacted(f"{self.shown}: {exc.strerror or exc}")) from exc


def database_url(configured: str | None, directory: Path) -> sa.URL:
    """Return the URL of BOUCHET_DB_URL, or of a file in `directory`. Raises ConfigurationError, without a password."""
    if not configured:
        return sa.URL.create(DRIVERS["sqlite"], database=str(directory / FILE_NAME))
    example = "postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        url = sa.make_url(configured)
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise ConfigurationError("BOUCHET_DB_URL", f"not a URL such as {example}") from exc
    scheme = url.drivername.partition("+")[0].lower()
    if scheme not in DRIVERS:
        raise ConfigurationError("BOUCHET_DB_URL", f"{scheme} is not supported; use {example}, or leave it empty")
    if scheme != "sqlite":
        _tls_options(url)
    if re.search(r"[@\s]", f"{url.host or ''}{url.database or ''}") and scheme != "sqlite":
        # what is shown of a database must not be the rest of its password
        problem = f"its host or database has an `@` or a blank; write {example}, with %40 for an @ of the password"
        raise ConfigurationError("BOUCHET_DB_URL", problem)
    if not url.database:
        raise ConfigurationError("BOUCHET_DB_URL", f"it names no database; write {example}")
    return url.set(drivername=DRIVERS[scheme])


def describe(error: Exception, database: str) -> str:
    """Return what a driver's error means, in one sentence without the statement and its values."""
    cause: Any = getattr(error, "orig", None) or error
    detail = cause.args[0] if getattr(cause, "args", None) else str(cause)
    # pg8000 has the server's answer as a mapping
    text = str(detail.get("M", detail)) if isinstance(detail, dict) else str(detail)
    text = " ".join(text.split())[:300]
    if text.startswith("Can't create a connection"):
        return f"{database} cannot be reached; check BOUCHET_DB_URL in .env, and that the server accepts connections"
    if "disk is full" in text or "No space left" in text:
        return f"the disk of {database} is full; free some space (LEDGER_KEEP_DAYS and LEDGER_MAX_MB bound the ledger)"
    return f"{database}: {text}"


def _tls_options(url: sa.URL) -> dict[str, Any]:
    """Return what the driver is given for the URL's sslmode, which means what it means to psql.

    Raises ConfigurationError.
    """
    mode, authorities = url.query.get("sslmode", "prefer"), url.query.get("sslrootcert")
    known: dict[str, Any] = {"disable": False, "allow": None, "prefer": None, "require": True}
    if mode in known:
        return {"ssl_context": known[str(mode)]}
    if mode not in ("verify-ca", "verify-full"):
        modes = ", ".join((*known, "verify-ca", "verify-full"))
        raise ConfigurationError("BOUCHET_DB_URL", f"its sslmode is none of {modes}")
    try:
        context = ssl.create_default_context(cafile=str(authorities) if authorities else None)
    except OSError as exc:
        raise ConfigurationError("BOUCHET_DB_URL", f"its sslrootcert {authorities} cannot be used ({exc})") from exc
    context.check_hostname = mode == "verify-full"
    return {"ssl_context": context}


def _make_engine(url: sa.URL, timeout_s: float | None = None) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(
            url.set(query={}),
            pool_pre_ping=True,
            pool_size=3,
            max_overflow=2,
            connect_args={"timeout": timeout_s or ANSWER_TIMEOUT_S, **_tls_options(url)},
        )
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=3, max_overflow=2)

    def prepare(connection: Any, _: object) -> None:
        # Python's driver begins no transaction before DDL by itself: a migration that was killed would be half done
        connection.isolation_level = None
        # readers and the writer do not wait for each other; what is committed survives a loss of power
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=1000", "cache_size=-4000"):
            connection.execute(f"PRAGMA {pragma}")

    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _scripts() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config, ScriptDirectory.from_config(config)


def _is_current(engine: sa.Engine) -> bool:
    """Return whether the tables are this version's. Refuses those of a newer one."""
    _, scripts = _scripts()
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    try:
        scripts.get_revision(found or "base")
    except CommandError as exc:
        # the names of ours are numbers
        if not re.fullmatch(r"[0-9]{4}", found or ""):
            problem = "it has the tables of another program; name another database in BOUCHET_DB_URL"
            raise LedgerUnavailableError(problem) from exc
        raise LedgerUnavailableError(
            f"it was written by a newer version of bouchet-llm (tables {found}); start that version again, "
            "or name another database in BOUCHET_DB_URL"
        ) from exc
    return found == scripts.get_current_head()


def _migrate(url: sa.URL) -> None:
    """Bring the tables to this version's, in one transaction."""
    config, scripts = _scripts()
    engine = _make_engine(url, MIGRATION_TIMEOUT_S)
    try:
        with engine.begin() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            log.info("the ledger's tables were brought from %s to %s", found or "nothing", scripts.get_current_head())
    finally:
        engine.dispose()
