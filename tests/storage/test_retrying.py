"""Actions that fail for a moment are repeated for as long as patience lasts, and no longer."""

from __future__ import annotations

import pytest

from daskptycho.errors import OptionError
from daskptycho.storage import retrying
from daskptycho.storage.retrying import PATIENCE_VARIABLE, fail_fast, patience, retry


def failing(times: int) -> object:
    """A function that fails this number of times."""
    left = [OSError("away")] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "there"

    return action


def test_an_outage_of_a_minute_is_waited_out(pauses: list[float]) -> None:
    assert retry(failing(18), "reading", OSError, 75.0) == "there"
    assert 60 < sum(pauses) < 75
    assert pauses == sorted(pauses)
    assert max(pauses) == retrying.LONGEST_PAUSE


def test_patience_has_an_end(pauses: list[float]) -> None:
    with pytest.raises(OSError, match="away"):
        retry(failing(10**6), "reading", OSError, 75.0)
    assert 65 < sum(pauses) <= 75


def test_signed_addresses_are_not_logged(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    left = [OSError("error sending request for url (https://host/a?X-Amz-Signature=PLANTED): timed out")]

    def action() -> None:
        if left:
            raise left.pop()

    with caplog.at_level("INFO"):
        retry(action, "reading tile 3", OSError)
    (line,) = caplog.messages
    assert line.startswith(
        "reading tile 3 failed and will be retried: error sending request for url (https://"
    )
    assert "PLANTED" not in line


def test_other_errors_are_not_retried(pauses: list[float]) -> None:
    with pytest.raises(OSError, match="away"):
        retry(failing(1), "reading", ValueError, 75.0)
    with pytest.raises(OSError, match="away"):
        retry(failing(1), "reading", OSError, 0.0)
    assert pauses == []


def test_patience_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PATIENCE_VARIABLE, raising=False)
    # A minute, and the time that the last attempt takes.
    assert patience() > 60
    monkeypatch.setenv(PATIENCE_VARIABLE, "2.5")
    assert patience() == 2.5
    with fail_fast():
        assert patience() == 0
    assert patience() == 2.5


@pytest.mark.parametrize("value", ["soon", "-1", "inf", "nan"])
def test_patience_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, value)
    with pytest.raises(OptionError, match=f"{PATIENCE_VARIABLE} is '{value}'; expected seconds"):
        patience()
