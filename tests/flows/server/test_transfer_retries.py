"""The user chooses for how long transfers are retried during an outage."""

import pytest

from flows.server.transfer_retries import outage_seconds, transfer_delays
from tasks.errors import ConfigError
from tasks.storage.filesystems import TransferSettings


@pytest.mark.parametrize(("given", "share"), [(None, 1.0), ("", 1.0), ("24", 0.1), ("480", 2.0)])
def test_delays_are_proportional_to_the_outage_seconds(
    given: str | None, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARVEST_OUTAGE_SECONDS", raising=False)
    if given is not None:
        monkeypatch.setenv("HARVEST_OUTAGE_SECONDS", given)
    transfer = TransferSettings(**transfer_delays())
    assert (transfer.base_delay_s, transfer.max_delay_s) == pytest.approx((0.25 * share, 20.0 * share))


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "four minutes"])
def test_a_wrong_number_of_outage_seconds_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVEST_OUTAGE_SECONDS", given)
    with pytest.raises(
        ConfigError, match=rf"HARVEST_OUTAGE_SECONDS is '{given}'; it must be a number of seconds above 0"
    ):
        outage_seconds()
