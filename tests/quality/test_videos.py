"""The MP4 files of a report: sizes, order, differences."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from dit_accel.quality.videos import video_file, write_video, write_videos


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((48, 48), (192, 192)),
        ((100, 60), (400, 240)),  # four times would be enough for the short side, and it fits
        ((191, 191), (382, 382)),
        ((200, 400), (200, 400)),
        ((300, 300), (300, 300)),
        ((481, 833), (296, 512)),
        ((15, 301), (16, 302)),  # enlarged, it would be too long: only made even
    ],
)
def test_frames_are_of_a_size_to_look_at(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    write_video(tmp_path / "v.mp4", torch.rand(3, 3, *size), 8)
    assert iio.improps(tmp_path / "v.mp4", plugin="FFMPEG").shape[1:3] == shown
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


def test_every_frame_is_there_at_its_place(tmp_path: Path) -> None:
    levels = torch.linspace(0, 1, 9).view(9, 1, 1, 1).expand(9, 1, 48, 48)
    write_video(tmp_path / "v.mp4", levels, 6)
    frames = iio.imread(tmp_path / "v.mp4", plugin="FFMPEG").astype(float)
    assert len(frames) == 9
    assert frames.mean((1, 2, 3)) / 255 == pytest.approx(torch.linspace(0, 1, 9).numpy(), abs=0.02)
    assert iio.immeta(tmp_path / "v.mp4", plugin="FFMPEG")["fps"] == 6


def test_a_difference_is_four_times_what_it_is(tmp_path: Path) -> None:
    videos = {"baseline": torch.full((2, 3, 48, 48), 0.5), "fast": torch.full((2, 3, 48, 48), 0.6)}
    write_videos(tmp_path, 3, 7, videos, 8)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {video_file(3, 7, 0), video_file(3, 7, 1), video_file(3, 7, 1, is_difference=True)}
    found = {name: iio.imread(tmp_path / name, plugin="FFMPEG").mean() / 255 for name in names}
    assert found[video_file(3, 7, 0)] == pytest.approx(0.5, abs=0.02)
    assert found[video_file(3, 7, 1)] == pytest.approx(0.6, abs=0.02)
    assert found[video_file(3, 7, 1, is_difference=True)] == pytest.approx(0.4, abs=0.02)
