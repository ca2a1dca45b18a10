"""What a coordinator looks at before it serves anybody."""

from dataclasses import replace
from pathlib import Path

import pytest

from marketplace.app import coordinator
from tallystick.deployment import BadDeployment
from tests.support.servers import Place
from tests.support.servers import _settings as settings_of


def test_a_market_whose_deposits_could_leave_unpaid_does_not_start(place: Place, folder: Path) -> None:
    settings = settings_of(place, folder, 1, {"maturity_lag_seconds": 500})

    async def start(is_local: bool) -> None:
        async with coordinator(settings, is_local=is_local) as parts, parts.running():
            pass

    with pytest.raises(BadDeployment, match=r"withdrawn after 400 s.*MATURITY_LAG_SECONDS to less than 200"):
        place.background.do(start(is_local=False))
    place.background.do(start(is_local=True))


def test_contracts_that_are_not_those_of_the_file_are_refused(place: Place, folder: Path) -> None:
    settings = settings_of(place, folder, 1, {})
    replace(place.deployment, thaw=401).save(folder / "deployment.json")

    async def start() -> None:
        async with coordinator(settings, is_local=True) as parts, parts.running():
            pass

    with pytest.raises(BadDeployment, match=r"says thaw 401, the Ledger at 0x.* says 400"):
        place.background.do(start())
