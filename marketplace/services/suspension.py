"""What the operator of a market may do to others: suspend an account or a node, and let them go on.

Neither loses money by it. A suspended account's running jobs end as ever and are charged; what it
deposited leaves through the contract, as anybody's does. A suspended node finishes what it runs, stays
connected to bring its receipts, is paid for them, and gets no new jobs.
"""

from collections.abc import Sequence

from email_validator import EmailNotValidError, validate_email
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import BadRequest, NotFound
from marketplace.storage.queries import accounts, keys, nodes
from marketplace.storage.tables import Account, NodeRow
from tallystick.protocol.ids import to_address

ACTIVE, SUSPENDED = "active", "suspended"


def find_account(session: Session, name: str) -> Account:
    """Return the account with an id, an e-mail address or a wallet's address. Raises NotFound."""
    account = accounts.find(session, name) or _by_address(session, name) or _by_email(session, name)
    if account is None:
        raise NotFound(f"There is no account {name!r}.", code="account_not_found")
    return account


def set_account_status(session: Session, name: str, status: str, now: int) -> Account:
    """Suspend an account or restore it, and return it; a running coordinator sees it within a second.

    Raises NotFound, or BadRequest for the treasury.
    """
    account = find_account(session, name)
    if account.kind == AccountKind.TREASURY:
        raise BadRequest("The treasury is the market's own account; it cannot be suspended.")
    accounts.change(session, account.id, status=status)
    # What is remembered of its keys outside the database is forgotten with this.
    keys.touch(session, account.id, now)
    return find_account(session, account.id)


def known_nodes(session: Session) -> Sequence[NodeRow]:
    """Return every node that was ever connected, by operator."""
    return nodes.known(session)


def set_nodes_suspended(session: Session, address: str, suspended: bool) -> Sequence[str]:
    """Suspend or restore a node, or all known nodes of an operator; return their addresses.

    Raises NotFound if no node with this address or operator was ever connected, BadRequest for no address.
    """
    try:
        wanted = to_address(address)
    except ValueError as error:
        raise BadRequest(f"{error}") from error
    changed = nodes.set_suspended(session, wanted, suspended)
    if not changed:
        raise NotFound(f"No node {wanted}, and no node of an operator {wanted}, was ever connected here.")
    return changed


def _by_address(session: Session, name: str) -> Account | None:
    try:
        return accounts.by_address(session, to_address(name))
    except ValueError:
        return None


def _by_email(session: Session, name: str) -> Account | None:
    try:
        normal = validate_email(name.strip(), check_deliverability=False).normalized.lower()
    except EmailNotValidError:
        return None
    return accounts.by_email(session, normal)
