"""The command line: ``dit-accel demo | presets | profile | plan | report | doctor``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .documents import quoted, read_json_file
from .errors import ConfigError

# Options of `report` that --inputs must not set a second time.
_OPTIONS = ("prompts", "seeds", "metrics", "out", "progress", "num_inference_steps")
_MAX_PROMPTS_BYTES = 1 << 20
Command = Callable[[argparse.Namespace], dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 only on success, errors are one line on stderr."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # its hints at every call would tear the progress bars
    try:
        result = args.command(args)
    except Exception as error:  # diffusers, too, refuses arguments: a ValueError on one line is all a user needs
        return _failed(args, f"{type(error).__name__}: {error}", error)
    except KeyboardInterrupt:
        print("interrupted; a profiling job continues from its workdir when it is run again", file=sys.stderr)
        return 130
    print(json.dumps(result, indent=2) if args.json else result.pop("text"))
    return 0


def _failed(args: argparse.Namespace, line: str, error: BaseException) -> int:
    if args.debug:
        raise error
    print(" ".join(line.split()), file=sys.stderr)
    return 1


def _demo(args: argparse.Namespace) -> dict[str, Any]:
    from .quality.metrics import unavailable_metrics
    from .showcase import run_showcase

    missing = unavailable_metrics()
    metrics = [name for name in ("psnr", "psnr_moving", "ssim", "lpips", "st_lpips") if name not in missing]
    report = run_showcase(
        args.out,
        num_prompts=args.prompts,
        seeds=range(101, 101 + args.seeds),
        metrics=metrics,
        progress=not args.json,
    )
    notes = [f"{name}: not measured ({reason})" for name, reason in missing.items()]
    text = "\n".join([report.to_markdown(), *notes, f"Videos, schedules and report.json are in {args.out}"])
    return {"out": str(args.out), "rows": _rows(report), "not_measured": missing, "text": text}


def _presets(args: argparse.Namespace) -> dict[str, Any]:
    from .api import available_presets
    from .profiling.job_file import load_pipeline

    names = available_presets(load_pipeline(args.pipeline))
    return {"presets": names, "text": "\n".join(names) or "no presets ship for this model; profile it"}


def _profile(args: argparse.Namespace) -> dict[str, Any]:
    from .profiling.job_file import JobFile, run_job

    job = JobFile.load(args.job)
    workdir = args.workdir or _cache_dir() / "profiles" / job.name
    graph, schedules = run_job(
        job,
        workdir,
        args.out or workdir / "profile",
        args.workers,
        rollouts=args.polish,
        progress=not args.json,
    )
    lines = [f"{path}: {schedule.budget} of {schedule.num_steps} steps" for path, schedule in schedules.items()]
    text = "\n".join([f"{graph.rollout_steps:,} full denoiser steps, {len(graph.edges)} edges", *lines])
    return {"rollout_steps": graph.rollout_steps, "schedules": [str(path) for path in schedules], "text": text}


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    from .profiling.error_graph import ErrorGraph
    from .profiling.planner import plan

    graph = ErrorGraph.load(args.graph)
    if args.steps is not None or args.shift is not None:
        graph = graph.resample(args.steps, shift=args.shift)
    schedule = plan(
        graph,
        args.budget,
        milliseconds=args.milliseconds,
        speedup=args.speedup,
        objective=args.objective,
        power=args.power,
    )
    if args.out:
        schedule.save(args.out)
    partial = list(schedule.partial.steps) if schedule.partial else []
    sparse = list(schedule.sparse.steps) if schedule.sparse else []
    by_name = {"": list(schedule.compute_steps), "partial: ": partial, "sparse: ": sparse}
    lines = [name + " ".join(map(str, steps)) for name, steps in by_name.items() if steps]
    return {
        "num_steps": schedule.num_steps,
        "compute_steps": by_name[""],
        "partial_steps": partial,
        "sparse_steps": sparse,
        "text": "\n".join(lines),
    }


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from .profiling.job_file import load_pipeline
    from .quality.metrics import check_metrics
    from .quality.report import evaluate

    lines = read_json_file(args.prompts, _MAX_PROMPTS_BYTES, ConfigError, "prompts").splitlines()
    inputs = _json_object(args.inputs)
    check_metrics(args.metrics)
    pipe = load_pipeline(args.pipeline, args.dtype, args.device)
    pipe.set_progress_bar_config(disable=True)
    report = evaluate(
        pipe,
        args.presets,
        [line.strip() for line in lines if line.strip()],
        seeds=args.seeds,
        metrics=args.metrics,
        out=args.out,
        progress=not args.json,
        num_inference_steps=args.steps,
        **inputs,
    )
    return {"rows": _rows(report), "text": report.to_markdown()}


def _doctor(args: argparse.Namespace) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from .quality.metrics import unavailable_metrics
    from .registry import all_specs
    from .sparse.backends import backend_report

    def found(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    packages = {
        name: found(name) for name in ("dit_accel", "torch", "diffusers", "transformers", "scikit-image", "lpips")
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    families = {spec.family: [name.rsplit(".", 1)[1] for name in spec.pipelines] for spec in all_specs()}
    missing = unavailable_metrics()
    backends = backend_report(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    result = {
        "packages": packages,
        "device": device,
        "families": families,
        "sparse_backends": backends,
        "unavailable_metrics": missing,
    }
    lines = [f"{name} {number}" for name, number in packages.items()] + [f"device {device}"]
    lines += [f"family {name}: {', '.join(classes)}" for name, classes in families.items()]
    lines += [f"sparse attention backend {name}: {state}" for name, state in backends.items()]
    lines += [f"metric {name} unavailable: {reason}" for name, reason in missing.items()]
    return {**result, "text": "\n".join(lines)}


def _json_object(text: str) -> dict[str, Any]:
    """What ``--inputs`` holds, or a `ConfigError`."""
    try:
        inputs = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"--inputs is not valid JSON: {problem}. Example: --inputs '{{\"height\": 480}}'") from None
    if not isinstance(inputs, dict):
        raise ConfigError(
            f"--inputs must be a JSON object, got {quoted(inputs)}. Example: --inputs '{{\"height\": 480}}'"
        )
    taken = sorted({"pipe", "accelerations", "keep_videos", "warmup", *_OPTIONS} & set(inputs))
    if taken:
        raise ConfigError(f"--inputs holds arguments of the pipeline only, got {', '.join(taken)}.")
    return inputs


def _rows(report: Any) -> list[dict[str, Any]]:
    """The report's rows as plain JSON values."""
    rows: list[dict[str, Any]] = report.to_dict()["rows"]
    return rows


def _cache_dir() -> Path:
    """The user's cache directory for dit_accel."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dit_accel"


class _OneLineParser(argparse.ArgumentParser):
    """Argparse prints the usage before an error; here an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    common = _OneLineParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = _OneLineParser(prog="dit-accel", description="Faster Diffusers video pipelines, measured.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    demo = add("demo", _demo, "the embedded model: every preset and a uniform skip against the full run")
    demo.add_argument("--out", type=Path, default=Path("dit-accel-demo"), help="directory for the results")
    demo.add_argument("--prompts", type=int, default=4, choices=range(1, 9), help="held-out prompts")
    demo.add_argument("--seeds", type=int, default=1, choices=range(1, 9), help="seeds a prompt")

    presets = add("presets", _presets, "the presets of a pipeline")
    presets.add_argument("pipeline", nargs="?", default="demo", help='"demo", a diffusers directory or a hub id')

    job = add("profile", _profile, "measure an error graph and plan schedules; resumes after an interruption")
    job.add_argument("job", type=Path, help="TOML file, see offline_profiles/jobs/")
    job.add_argument("--workdir", type=Path, help="where finished rollouts are kept (default: the user's cache)")
    job.add_argument("--out", type=Path, help="directory for graph and schedules (default: WORKDIR/profile)")
    job.add_argument("--polish", type=int, default=0, metavar="N", help="whole runs spent on improving each schedule")
    job.add_argument("--workers", type=int, default=1, help="processes, each with its own copy of the pipeline")

    _add_plan_options(add("plan", _plan, "the best schedule of a graph under one limit"))

    report = add("report", _report, "speed and quality of presets on your prompts")
    report.add_argument("--pipeline", default="demo")
    report.add_argument("--dtype", default="float32")
    report.add_argument("--device", default="cpu")
    report.add_argument("--presets", nargs="+", required=True)
    report.add_argument("--prompts", type=Path, required=True, help="text file, one prompt a line")
    report.add_argument("--seeds", type=int, nargs="+", default=[0])
    report.add_argument("--steps", type=int, default=50)
    report.add_argument("--metrics", nargs="+", default=["psnr", "ssim"])
    report.add_argument("--inputs", default="{}", help="further pipeline arguments as a JSON object")
    report.add_argument("--out", type=Path, help="write the report as JSON here")

    add("doctor", _doctor, "what is installed, and which backends and metrics work")
    return parser


def _add_plan_options(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("graph", type=Path)
    limit = plan.add_mutually_exclusive_group(required=True)
    limit.add_argument("--budget", type=int, help="number of full steps")
    limit.add_argument("--milliseconds", type=float, help="time of the denoising loop, at most")
    limit.add_argument("--speedup", type=float, help="the same, as the time of the full run over it")
    plan.add_argument("--steps", type=int, help="plan for another number of steps than was profiled")
    plan.add_argument("--shift", type=float, help="plan for another shift of the scheduler than was profiled")
    plan.add_argument("--objective", default="lexicographic-minimax", help="lexicographic-minimax or sum-power")
    plan.add_argument("--power", type=float, default=4.0, help="exponent of sum-power")
    plan.add_argument("--out", type=Path, help="write the schedule here")


if __name__ == "__main__":
    sys.exit(main())
