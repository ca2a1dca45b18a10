"""Statements of the hot path: compiled once per kind of database, run on the driver's own connection.

SQLAlchemy's execution takes 20–30 µs a statement, the driver's 1–2; a hold and its capture are ten.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable
from sqlalchemy.sql.compiler import SQLCompiler

Parameters = Mapping[str, Any]
DRIVER = "driver_connection"
"""Where `Session.info` has the driver's connection, if its transaction is begun already."""


class Prepared:
    """A statement whose parameters and results are integers, strings, bytes or None: nothing to convert."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def run(self, session: Session, **parameters: Any) -> Any:
        """Run it once; return the driver's cursor (`rowcount`, `fetchone`, `fetchall`).

        Raises KeyError for a parameter that was left out, DBAPIError for what the database refuses.
        """
        raw, compiled = self._ready(session)
        try:
            return raw.execute(compiled.sql, compiled.arguments(parameters))
        except compiled.driver_error as error:
            raise compiled.translate(error, parameters) from error

    def run_all(self, session: Session, rows: Sequence[Parameters]) -> None:
        """Run it once for each of `rows`."""
        raw, compiled = self._ready(session)
        try:
            raw.cursor().executemany(compiled.sql, [compiled.arguments(row) for row in rows])
        except compiled.driver_error as error:
            raise compiled.translate(error, rows) from error

    def _ready(self, session: Session) -> tuple[Any, "_Compiled"]:
        session.flush()
        raw = session.info.get(DRIVER)
        if raw is None:
            raw = session.connection().connection.driver_connection
        dialect = session.get_bind().dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, dialect)
        return raw, compiled


class _Compiled:
    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every Core statement has it
        if not isinstance(compiled, SQLCompiler):
            raise TypeError(f"not a statement: {statement!r}")
        self.sql = str(compiled)
        self._names = compiled.positiontup
        optional = {name: bind for name, bind in compiled.binds.items() if not bind.required}
        self._fixed = {name: bind.effective_value for name, bind in optional.items()}
        self._dialect = dialect
        self.driver_error: type[Exception] = dialect.loaded_dbapi.Error

    def arguments(self, given: Parameters) -> Sequence[Any] | Parameters:
        """Return the values as the driver wants them: in order, or by name."""
        fixed = self._fixed
        if self._names is None:
            return {**fixed, **given}
        return [given[name] if name in given else fixed[name] for name in self._names]

    def translate(self, error: Exception, parameters: Any) -> BaseException:
        """Return the driver's error as SQLAlchemy raises it."""
        return DBAPIError.instance(self.sql, parameters, error, self.driver_error, dialect=self._dialect)
