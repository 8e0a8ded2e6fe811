"""Pushing to a Hub and reading back: names, versions, branches and pull requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dit_accel import CacheSchedule
from dit_accel.errors import HubError
from dit_accel.hub import HubFile, download, upload
from dit_accel.schedule import MAX_FILE_BYTES

from .conftest import REPO, SCHEDULE, put
from .server import TOKEN

OTHER = CacheSchedule(6, (0, 2, 4), {"name": "other"})


def test_what_was_pushed_comes_back(logged_in):
    commit = SCHEDULE.push_to_hub(REPO, "fast")
    assert str(commit) == f"{logged_in.url}/{REPO}/commit/{commit.oid}"
    assert logged_in.repos[REPO].trees[commit.oid]["dit_accel/fast.json"] == SCHEDULE.to_json().encode()
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    assert not logged_in.repos[REPO].private


def test_token_endpoint_and_private_are_those_given(logged_in, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    options = {"token": TOKEN, "endpoint": logged_in.url}
    SCHEDULE.push_to_hub(REPO, "fast", private=True, **options)
    assert logged_in.repos[REPO].private
    assert CacheSchedule.from_hub(REPO, "fast", **options) == SCHEDULE


def test_a_name_gets_new_versions_and_a_commit_always_means_the_same(logged_in):
    first = SCHEDULE.push_to_hub(REPO, "fast")
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    OTHER.push_to_hub(REPO, "fast", commit_message="Better")
    assert CacheSchedule.from_hub(REPO, "fast") == OTHER  # a branch is looked up, also if it is in the cache
    assert CacheSchedule.from_hub(REPO, "fast", revision=first.oid) == SCHEDULE
    logged_in.methods()
    assert CacheSchedule.from_hub(REPO, "fast", revision=first.oid) == SCHEDULE
    assert logged_in.methods() == []


def test_a_branch_is_known_offline_also_if_its_commit_was_loaded_first(logged_in, monkeypatch):
    first = SCHEDULE.push_to_hub(REPO, "fast")
    CacheSchedule.from_hub(REPO, "fast", revision=first.oid)
    CacheSchedule.from_hub(REPO, "fast")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE


def test_what_is_in_the_cache_is_not_loaded_again_unless_forced(filled):
    CacheSchedule.from_hub(REPO, "fast")
    assert filled.methods() == ["HEAD", "HEAD", "GET"]
    CacheSchedule.from_hub(REPO, "fast")
    assert filled.methods() == ["HEAD", "HEAD"]
    CacheSchedule.from_hub(REPO, "fast", local_files_only=True)
    assert filled.methods() == []
    CacheSchedule.from_hub(REPO, "fast", force_download=True)
    assert filled.methods() == ["HEAD", "HEAD", "GET"]


def test_the_cache_may_be_elsewhere(filled, tmp_path):
    CacheSchedule.from_hub(REPO, "fast", cache_dir=tmp_path / "here")
    assert (tmp_path / "here" / "models--me--schedules").is_dir() and not (tmp_path / "cache").exists()


def test_branches_and_pull_requests(logged_in):
    SCHEDULE.push_to_hub(REPO, "fast")
    repo = logged_in.repos[REPO]
    repo.refs["v2/next"] = repo.refs["main"]
    OTHER.push_to_hub(REPO, "fast", revision="v2/next")
    pull_request = OTHER.push_to_hub(REPO, "slow", create_pr=True)
    assert (pull_request.pr_revision, pull_request.pr_url) == ("refs/pr/1", f"{logged_in.url}/{REPO}/discussions/1")
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    assert CacheSchedule.from_hub(REPO, "fast", revision="v2/next") == OTHER
    assert CacheSchedule.from_hub(REPO, "slow", revision="refs/pr/1") == OTHER
    with pytest.raises(HubError, match=r"me/schedules has no schedule 'slow' at dit_accel/slow.json. It has: fast"):
        CacheSchedule.from_hub(REPO, "slow")


def test_schedules_and_reports_are_told_apart(logged_in):
    report = HubFile("report", REPO, "fast")
    upload(report, "{}", 100)
    SCHEDULE.push_to_hub(REPO, "fast")
    assert sorted(logged_in.repos[REPO].trees[logged_in.repos[REPO].refs["main"]]) == [
        ".gitattributes",
        "dit_accel/fast.json",
        "dit_accel/fast.report.json",
    ]
    assert download(report, 100).read_bytes() == b"{}"
    with pytest.raises(HubError, match=r"It has: fast\. Did you mean 'fast'\?"):
        download(HubFile("report", REPO, "fats"), 100)
    with pytest.raises(HubError, match=r"It has: fast\. Did"):
        CacheSchedule.from_hub(REPO, "fats")


def test_what_could_not_be_read_back_is_not_pushed(logged_in):
    with pytest.raises(HubError, match=r"is 1,\d{3},\d{3} bytes, and 1,048,576 is the most"):
        replace(SCHEDULE, provenance={"name": "x" * MAX_FILE_BYTES}).push_to_hub(REPO, "fast")
    assert logged_in.requests == []


def test_files_in_lfs_are_held_to_their_sha256(filled):
    filled.repos[REPO].lfs.add("dit_accel/fast.json")
    assert CacheSchedule.from_hub(REPO, "fast") == SCHEDULE
    filled.sent = lambda content: content.replace(b"mine", b"time")
    put(filled, "fast", OTHER)
    filled.sent = lambda content: content.replace(b"other", b"otter")
    with pytest.raises(HubError, match=r"me/schedules:fast is damaged: the hash of its content is [0-9a-f]{64}, the"):
        CacheSchedule.from_hub(REPO, "fast")
