"""What nobody else may read does not get into an error."""

from __future__ import annotations

import pytest

from dit_accel import CacheSchedule
from dit_accel.errors import HubError, without_secrets
from dit_accel.hub import HubFile, upload

from .conftest import REPO

SECRET = "hf_abcdefghijklmnop"


@pytest.mark.parametrize("token", [f"{SECRET}\n", f"{SECRET} ", f"{SECRET}é", f"{SECRET}\r\nX-More: 1", ""])
def test_a_token_that_no_header_can_carry_is_not_shown(filled, token):
    for use in (
        lambda: CacheSchedule.from_hub(REPO, "fast", token=token),
        lambda: upload(HubFile("schedule", REPO, "fast"), "{}", 10, token=token),
    ):
        with pytest.raises(HubError, match="The token holds") as caught:
            use()
        error: BaseException | None = caught.value
        while error is not None:
            assert "hf_" not in str(error)
            error = error.__cause__ or error.__context__


def test_a_token_that_is_refused_is_not_shown(filled):
    filled.repos[REPO].private = True
    with pytest.raises(HubError) as caught:
        CacheSchedule.from_hub(REPO, "fast", token=SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:pa55@hub.example/a: no", "at https://hub.example/a: no"),
        ("for url 'https://cdn.example/x?Signature=abc&Key=1'", "for url 'https://cdn.example/x?...'"),
        (f"header b'Bearer {SECRET}'", "header b'Bearer ...'"),
        (f"{SECRET} is wrong", "hf_... is wrong"),
        ("me@example.org? Yes: me/schedules@v1:fast", "me@example.org? Yes: me/schedules@v1:fast"),
    ],
)
def test_secrets_are_cut_out(text, shown):
    assert without_secrets(text) == shown


def test_more_than_was_announced_is_refused(filled, monkeypatch):
    monkeypatch.setattr("dit_accel.schedule.MAX_FILE_BYTES", 100)
    with pytest.raises(HubError, match="at most 100"):
        CacheSchedule.from_hub(REPO, "fast")
