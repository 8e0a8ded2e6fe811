"""Quality reports on a Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_accel import QualityReport
from dit_accel.errors import ConfigError, HubError

from .conftest import REPO, put


def test_a_report_comes_back_as_it_was_pushed(logged_in):
    """One of the shipped ones, with NaN and all."""
    (path,) = Path("offline_profiles/digits-wan").glob("held-out.report.json")
    report = QualityReport.load(path)
    commit = report.push_to_hub(REPO, "held-out", commit_message="Measured", create_pr=True)
    assert commit.pr_revision == "refs/pr/1"
    again = QualityReport.from_hub(REPO, "held-out", revision="refs/pr/1")
    assert again.to_dict() == report.to_dict()
    assert again.rows == report.rows
    with pytest.raises(HubError, match=r"me/schedules has no report 'held-out' at dit_accel/held-out.report.json"):
        QualityReport.from_hub(REPO, "held-out")


def test_what_is_no_report_is_refused(hub):
    put(hub, "mine.report", b"{}")
    with pytest.raises(ConfigError, match=r"is not a dit_accel.quality_report file"):
        QualityReport.from_hub(REPO, "mine")
