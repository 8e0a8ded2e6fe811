"""What a soak of mixed requests found."""

from __future__ import annotations

from .data import result


def soak() -> str:
    """Requests, videos that were right, and memory."""
    found = result("soak")
    finished = [row for row in found.rows if "finished" in row["figures"]]
    videos = sum(int(row["figures"]["finished"]) for row in finished)
    alike = sum(int(row["figures"]["bit_identical"]) for row in finished)
    aborted = sum(int(number) for number in found.figures("aborted").values())
    setting, memory = finished[0]["setting"], found.figures("memory")
    return (
        f"Measured: {setting['requests']} requests of four sizes in {setting['threads']} threads on the "
        f"{setting['pipeline']} pipeline, {aborted} of them aborted in {len(found.figures('aborted'))} ways: {alike} "
        f"of the {videos} finished videos are a fresh pipeline's to the bit. From the second to the last fifth of the "
        f"requests resident memory changed by {memory['resident_growth_percent']:.1f} %, that of tensors by "
        f"{memory['tensor_growth_percent']:.1f} % {found.note}."
    )


def random_walk() -> str:
    """Actions, and runs that were right."""
    found = result("random_walk")
    figures, setting = found.figures("all"), found.rows[0]["setting"]
    aborted = sum(int(number) for number in found.figures("aborted calls").values())
    kinds = ", ".join(sorted(found.figures("actions")))
    return (
        f"Measured, too: a random walk of {setting['steps']} actions ({kinds}) on pipelines that share the embedded "
        f"model, {aborted} calls aborted on the way: {figures['runs_bit_identical']:.0f} of the "
        f"{figures['runs_compared']:.0f} finished videos are a fresh pipeline's to the bit, and "
        f"{figures['objects_left']:.0f} objects are left {found.note}."
    )


REGIONS = {"soak": soak, "random-walk": random_walk}
