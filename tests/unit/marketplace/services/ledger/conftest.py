"""Books to move money in, which must add up when a test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from marketplace.services.audit_books import audit_books
from tests.support.books import fresh_books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Session]:
    """A session on new books with a treasury. Whatever the test did, the books add up after it."""
    for session in fresh_books(tmp_path):
        yield session
        session.flush()
        assert [str(finding) for finding in audit_books(session).findings] == []
