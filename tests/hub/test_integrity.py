"""What does not match the Hub's hash, is too large or is no schedule never becomes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from dit_accel import CacheSchedule
from dit_accel.errors import HubError, ScheduleError
from dit_accel.schedule import MAX_FILE_BYTES

from .conftest import REPO, SCHEDULE, cached, put


def tamper(content: bytes) -> bytes:
    """Another valid schedule of the same length."""
    changed = content.replace(b"-0.5", b"-0.6")
    assert changed != content and CacheSchedule.from_json(changed.decode()) != SCHEDULE
    return changed


def test_damage_in_the_cache_is_found_and_mended(filled, tmp_path):
    CacheSchedule.from_hub(REPO, "fast")
    (blob,) = cached(tmp_path)
    blob.write_bytes(tamper(blob.read_bytes()))
    for options in ({}, {"local_files_only": True}):
        with pytest.raises(HubError, match=r"me/schedules:fast is damaged.*Delete .*force_download=True") as caught:
            CacheSchedule.from_hub(REPO, "fast", **options)
        assert f"Delete {blob}, or" in str(caught.value)
    assert CacheSchedule.from_hub(REPO, "fast", force_download=True) == SCHEDULE
    blob.write_bytes(tamper(blob.read_bytes()))
    blob.unlink()  # the other advice
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE


def test_damage_on_the_way_is_found(filled):
    filled.sent = tamper
    with pytest.raises(HubError, match=r"is damaged: the hash of its content is [0-9a-f]{40}, the Hub's is"):
        CacheSchedule.from_hub(REPO, "fast")
    filled.sent = lambda content: content
    with pytest.raises(HubError, match="is damaged"):  # it is in the cache now
        CacheSchedule.from_hub(REPO, "fast")
    assert CacheSchedule.from_hub(REPO, "fast", force_download=True) == SCHEDULE


def test_a_file_that_ends_early_is_found(filled, tmp_path):
    filled.sent = lambda content: content[:-1]
    with pytest.raises(HubError, match="me/schedules:fast failed at"):
        CacheSchedule.from_hub(REPO, "fast")
    assert cached(tmp_path) == []


@pytest.mark.parametrize("etag", ["not-a-hash", "A" * 40, "0" * 39])
def test_an_etag_that_is_no_hash_is_refused(filled, etag):
    filled.claimed_etag = etag
    with pytest.raises(HubError, match=f"The Hub gave '{etag}' as the ETag of me/schedules:fast, which is no hash"):
        CacheSchedule.from_hub(REPO, "fast")


def test_without_links_in_the_cache_the_hub_is_asked_for_the_hash(filled, tmp_path, monkeypatch, unplug):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    (path,) = tmp_path.rglob("snapshots/*/dit_accel/fast.json")
    assert not path.is_symlink()
    path.write_bytes(tamper(path.read_bytes()))
    with pytest.raises(HubError, match=r"is damaged.*Delete .*fast\.json, or"):
        CacheSchedule.from_hub(REPO, "fast")
    path.write_bytes(SCHEDULE.to_json().encode())
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    filled.requests.clear()
    assert CacheSchedule.from_hub(REPO, "fast", local_files_only=True) == SCHEDULE  # nobody knows the hash
    assert filled.requests == []
    filled.failure = 503
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    unplug()
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE


def test_what_is_too_large_is_not_loaded(filled):
    put(filled, "large", b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(
        HubError, match=r"large is 1,048,577 bytes; a schedule has at most 1,048,576\. It was not loaded"
    ):
        CacheSchedule.from_hub(REPO, "large")
    assert filled.methods() == ["HEAD"]


def test_more_than_was_announced_is_refused(filled, tmp_path):
    put(filled, "large", b" " * (MAX_FILE_BYTES + 1))
    filled.claimed_size = "10"
    with pytest.raises(HubError, match="me/schedules:large failed at"):
        CacheSchedule.from_hub(REPO, "large")
    assert cached(tmp_path) == []


def test_what_has_no_known_size_is_not_loaded(filled):
    filled.claimed_size = ""
    with pytest.raises(HubError, match="me/schedules:fast is of unknown size; a schedule has at most"):
        CacheSchedule.from_hub(REPO, "fast")
    assert filled.methods() == ["HEAD"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "me/schedules:bad is not valid JSON"),
        (b"\xff\xfe", "cannot be read as a schedule"),
        (b'{"schema": "other"}', "me/schedules:bad is not a dit_accel.cache_schedule file"),
        (SCHEDULE.to_json().replace("0,", "1,").encode(), "me/schedules:bad: compute_steps must start with 0"),
    ],
)
def test_what_is_no_schedule_is_refused(hub, content, message):
    put(hub, "bad", content)
    with pytest.raises(ScheduleError, match=message):
        CacheSchedule.from_hub(REPO, "bad")


def test_nothing_but_the_cache_is_written(filled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CacheSchedule.from_hub(REPO, "fast")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert Path(constants.HF_HUB_CACHE).is_dir()
