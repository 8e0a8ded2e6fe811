"""A Hub of this machine's own, and huggingface_hub set to use it with an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from dit_accel import CacheSchedule

from .server import TOKEN, Hub, Repo, running_hub

REPO = "me/schedules"
SCHEDULE = CacheSchedule(6, (0, 3), {"name": "mine", "model": {"pipeline_class": "WanPipeline"}}, {4: (-0.5, 1.5)})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub that every call uses, while nobody is logged in. huggingface_hub reads its environment when imported."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def filled(hub: Hub) -> Hub:
    """One that has `SCHEDULE` as "fast"."""
    put(hub, "fast", SCHEDULE)
    return hub


@pytest.fixture
def logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def unplug(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes the network away: to an address that nobody listens at, with no waiting between attempts."""

    def unplug() -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        url = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr("time.sleep", lambda seconds: None)

    return unplug


def put(hub: Hub, name: str, schedule: CacheSchedule | bytes, *, ref: str = "main") -> str:
    """Have the Hub serve a schedule, or any content, under a name; returns the commit."""
    content = schedule if isinstance(schedule, bytes) else schedule.to_json().encode()
    return hub.repos.setdefault(REPO, Repo()).commit({f"dit_accel/{name}.json": content}, ref)


def cached(path: Path) -> list[Path]:
    """The blobs in a cache."""
    return [file for file in path.rglob("blobs/*") if file.is_file()]
