"""`QualityReport`: quality, speed and density of accelerations against the same seeds' full runs. Schema v2, JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents import parse_document, read_json_file, save_file
from ..errors import ConfigError
from .parsing import parse_records

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

SCHEMA = "dit_accel.quality_report"
VERSION = 2  # version 1 had no values of frames, no steps and no peak memory
MAX_FILE_BYTES = 64 << 20
_KEYS = ("rows", "provenance", "samples")
UNITS = {"psnr": " (dB)", "psnr_moving": " (dB)"}
_DIGITS = {"psnr": 2, "psnr_moving": 2, "ssim": 4}
_OTHER_DIGITS = 5  # of distances, which may be small
# What a step did, in the strings of `QualitySample.steps`.
FULL, SPARSE, PARTIAL, REUSE, IDLE = "FSPR-"


@dataclass(frozen=True)
class QualityRow:
    """One acceleration over all videos.

    Args:
        name: label of the acceleration.
        computed_steps: full denoising steps, the mean over videos rounded to a whole step (DBCache decides per video).
        num_steps: denoising steps of a trajectory.
        speedup: wall time of the denoising loop, baseline / accelerated, median over the pairs.
        num_videos: prompts x seeds.
        metrics: name -> (mean, standard error over videos). The error is NaN for one video; both are NaN for a metric
            that no video defines.
        density: mean kept share of attention pairs, 0 to 1; None without sparse attention.
        cache_bytes_peak: most bytes the cache held in any run.
        peak_memory_bytes: most memory that torch had allocated on the device in any run; None off CUDA, where torch
            does not tell.
    """

    name: str
    computed_steps: int
    num_steps: int
    speedup: float
    num_videos: int
    metrics: dict[str, tuple[float, float]]
    density: float | None
    cache_bytes_peak: int
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class QualitySample:
    """One accelerated video against its baseline.

    Args:
        name: label of the acceleration.
        prompt: the prompt.
        seed: seed of the CPU generator.
        computed_steps: full denoising steps of this run.
        num_steps: denoising steps of this run.
        speedup: seconds of the denoising loop, baseline / accelerated.
        metrics: name -> value; NaN where the metric is undefined (`psnr_moving` of a still video).
        density: kept share of attention pairs, or None.
        cache_bytes_peak: most bytes the cache held.
        peak_memory_bytes: most memory that torch had allocated on the device, or None.
        frames: metric -> its value for each frame; NaN where undefined.
        steps: denoiser -> branch -> one letter a step: F full, S full with sparse attention, P partial (the first and
            last blocks), R reuse, - where this denoiser did not run.
    """

    name: str
    prompt: str
    seed: int
    computed_steps: int
    num_steps: int
    speedup: float
    metrics: dict[str, float]
    density: float | None
    cache_bytes_peak: int
    peak_memory_bytes: int | None = None
    frames: dict[str, tuple[float, ...]] = field(default_factory=dict)
    steps: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class QualityReport:
    """What `evaluate` measured.

    Args:
        rows: one entry an acceleration, in the order given.
        provenance: pipeline class, model, prompts, seeds, inputs, versions, device, date, unavailable metrics, seconds
            and memory of the full runs.
        samples: one entry a video and acceleration.
        videos: the folder with what was generated, see `dit_accel.quality.videos`; not in the file. None: not kept.
    """

    rows: tuple[QualityRow, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    samples: tuple[QualitySample, ...] = ()
    videos: Path | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The document that `to_json` writes: JSON values only, null for what is not a finite number."""
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "rows": [asdict(row) for row in self.rows],
            "provenance": self.provenance,
            "samples": [asdict(sample) for sample in self.samples],
        }
        cleaned: dict[str, Any] = json_value(document)
        return cleaned

    def to_json(self, path: str | Path) -> None:
        """Write the report atomically; the folder must exist, or a `ConfigError` says so."""
        save_file(Path(path), self._to_text(), ConfigError, "report")

    def _to_text(self) -> str:
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)
        # Half of a surrogate pair, which JSON can hold and UTF-8 cannot, stays escaped.
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"

    def push_to_hub(self, repo_id: str, name: str, *, revision: str | None = None, **options: Any) -> CommitInfo:
        """Commit the report to a model repository of the Hub, as ``dit_accel/NAME.report.json``, without videos.

        ``options`` are those of `CacheSchedule.push_to_hub`. Raises `HubError` as it does.
        """
        from ..hub import HubFile, upload

        return upload(HubFile("report", repo_id, name, revision), self._to_text(), MAX_FILE_BYTES, **options)

    @classmethod
    def from_hub(cls, repo_id: str, name: str, *, revision: str | None = None, **options: Any) -> QualityReport:
        """Read a report of the Hub, or of its cache; ``options`` and `HubError` as in `CacheSchedule.from_hub`."""
        from ..hub import HubFile, download

        return cls.load(download(HubFile("report", repo_id, name, revision), MAX_FILE_BYTES, **options))

    def to_html(self, path: str | Path) -> None:
        """Write one page, with everything it needs inside: table, charts, steps, videos side by side, provenance.

        It works from disk in any browser. The videos are those of ``videos``; without, the page says that there are
        none. The folder of ``path`` must exist.

        Raises:
            MissingPackageError: jinja2 or matplotlib is not installed.
            ConfigError: a video is missing in ``videos``, or the page cannot be written.
        """
        from .page import render

        save_file(Path(path), render(self), ConfigError, "report page")

    def to_markdown(self) -> str:
        """A table: name, full steps, speed-up, every metric as mean ± standard error, density if any row has one."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.metrics))
        sparse = any(row.density is not None for row in self.rows)
        head = ["name", "full steps", "speed-up", *(_cell(name) + UNITS.get(name, "") for name in names)]
        head += ["density"] * sparse + ["videos"]
        lines = [head, ["---", *["---:"] * (len(head) - 1)]]
        for row in self.rows:
            cells = [
                _cell(row.name),
                f"{row.computed_steps} / {row.num_steps}",
                number_text(row.speedup, 2, "×"),
            ]
            cells += [metric_text(name, *row.metrics.get(name, (math.nan, math.nan))) for name in names]
            cells += [number_text(row.density, 3)] * sparse + [str(row.num_videos)]
            lines.append(cells)
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)

    @classmethod
    def load(cls, path: str | Path, *, videos: str | Path | None = None) -> QualityReport:
        """Read a report file; null numbers come back as NaN.

        Args:
            path: a file that `to_json` wrote.
            videos: the folder that `evaluate` wrote the videos into, for `to_html`.

        Raises:
            ConfigError: missing, over 64 MiB, not JSON, of another kind or version, or with malformed entries.
        """
        origin = str(path)
        text = read_json_file(Path(path), MAX_FILE_BYTES, ConfigError, "quality report")
        document = parse_document(text, SCHEMA, {1: _KEYS, VERSION: _KEYS}, ConfigError, origin)
        if not isinstance(document["provenance"], dict):
            raise ConfigError(
                f"{origin}: provenance must be a JSON object. Write the file with QualityReport.to_json."
            )
        is_old = document["version"] < VERSION
        return cls(
            rows=parse_records(QualityRow, document["rows"], f"{origin}: rows", is_old=is_old, has_errors=True),
            provenance=document["provenance"],
            samples=parse_records(
                QualitySample, document["samples"], f"{origin}: samples", is_old=is_old, has_errors=False
            ),
            videos=None if videos is None else Path(videos),
        )


def json_value(value: object) -> Any:
    """``value`` with JSON types only: non-finite numbers become null, objects that JSON lacks their type's name."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return f"<{type(value).__qualname__}>"


def _cell(text: str) -> str:
    """A name as one cell of a Markdown table."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def number_text(value: float | None, digits: int, unit: str = "") -> str:
    """A number for people; a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}{unit}"


def metric_text(name: str, mean: float, error: float = math.nan) -> str:
    """A metric's value for people, with its standard error if there is one."""
    digits = _DIGITS.get(name, _OTHER_DIGITS)
    return number_text(mean, digits) + ("" if math.isnan(error) else f" ± {error:.{digits}f}")
