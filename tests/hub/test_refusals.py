"""What cannot be had from a Hub, or put there: one clear error each."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from dit_accel import CacheSchedule
from dit_accel.errors import DitAccelError, HubError

from .conftest import REPO, SCHEDULE
from .server import TOKEN


def refused(message: str):
    return pytest.raises(HubError, match=message)


def test_offline_the_cache_is_enough(filled, monkeypatch):
    CacheSchedule.from_hub(REPO, "fast")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    filled.requests.clear()
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    assert filled.requests == []


def test_without_a_network_the_cache_is_enough(filled, unplug):
    CacheSchedule.from_hub(REPO, "fast")
    unplug()
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE


def test_when_the_hub_is_out_of_order_the_cache_is_enough(filled):
    CacheSchedule.from_hub(REPO, "fast")
    filled.failure = 503
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE


def test_offline_and_not_in_the_cache(filled, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused(
        r"me/schedules:fast is not in the cache, and the Hub was not reached \(.*offline mode.*HF_HUB_OFFLINE"
    ):
        CacheSchedule.from_hub(REPO, "fast")
    with refused("me/schedules:fast failed at .*force_download"):
        CacheSchedule.from_hub(REPO, "fast", force_download=True)
    with refused("me/schedules:fast failed at .*offline mode is enabled"):
        SCHEDULE.push_to_hub(REPO, "fast")


def test_no_network_and_not_in_the_cache(filled, unplug):
    unplug()
    with refused(r"not in the cache, and the Hub was not reached \(ConnectError: .*Load it once with a connection"):
        CacheSchedule.from_hub(REPO, "fast")
    with refused("me/schedules:fast failed at http://127.0.0.1:9: ConnectError: .*Check the connection"):
        SCHEDULE.push_to_hub(REPO, "fast")


def test_only_the_cache_was_asked_for(filled):
    with refused("me/schedules:fast is not in the cache, .*local_files_only"):
        CacheSchedule.from_hub(REPO, "fast", local_files_only=True)
    assert filled.methods() == []


@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_such_repository(hub, token):
    with refused(rf"There is no model repository 'me/nothing' at {hub.url} that you may see.*hf auth login") as caught:
        CacheSchedule.from_hub("me/nothing", "fast", token=token)
    assert isinstance(caught.value, DitAccelError) and caught.value.__cause__ is not None


def test_a_private_repository(filled):
    filled.repos[REPO].private = True
    with refused("no model repository 'me/schedules'"):
        CacheSchedule.from_hub(REPO, "fast")
    assert CacheSchedule.from_hub(REPO, "fast", token=TOKEN) == SCHEDULE


def test_a_gated_repository(filled):
    filled.repos[REPO].gated = True
    with refused(f"me/schedules is gated. Ask for access at {filled.url}/me/schedules, then log in"):
        CacheSchedule.from_hub(REPO, "fast")
    assert CacheSchedule.from_hub(REPO, "fast", token=TOKEN) == SCHEDULE


def test_no_such_revision(filled):
    for revision in ("v9", "0" * 40):
        with refused(f"me/schedules has no revision '{revision}'. Give a branch"):
            CacheSchedule.from_hub(REPO, "fast", revision=revision)


def test_no_such_schedule(filled):
    with refused("me/schedules has no schedule 'fats' at dit_accel/fats.json. It has: fast. Did you mean 'fast'?"):
        CacheSchedule.from_hub(REPO, "fats")
    filled.repos["me/models"] = type(filled.repos[REPO])()
    filled.repos["me/models"].commit({"model.safetensors": b""})
    with refused(r"me/models has no schedule 'fast' at dit_accel/fast\.json\. It has: none\.$"):
        CacheSchedule.from_hub("me/models", "fast")


def test_a_hub_that_is_out_of_order(filled, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    filled.failure = 500
    with refused("not in the cache, and the Hub was not reached .*500"):
        CacheSchedule.from_hub(REPO, "fast")
    with refused("me/schedules:fast failed at .*500.*out of order"):
        SCHEDULE.push_to_hub(REPO, "fast", token=TOKEN)


def test_pushing_needs_permission(filled):
    with refused(r"me/schedules cannot be written: .* answered 401\. Log in with a token that may write"):
        SCHEDULE.push_to_hub(REPO, "fast")
    with refused("me/new cannot be written"):
        SCHEDULE.push_to_hub("me/new", "fast", token="hf_wrong")
    with refused("not-mine/schedules cannot be written: .* answered 403"):
        SCHEDULE.push_to_hub("not-mine/schedules", "fast", token=TOKEN)
    with refused("failed at .*LocalTokenNotFoundError"):
        SCHEDULE.push_to_hub(REPO, "fast", token=True)
    assert "me/new" not in filled.repos


def test_pushing_to_a_branch_that_is_not_there(filled):
    with refused("me/schedules has no branch 'v9'. Create it first"):
        SCHEDULE.push_to_hub(REPO, "fast", token=TOKEN, revision="v9")
