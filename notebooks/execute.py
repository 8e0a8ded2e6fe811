"""Execute a notebook and leave the file as it is. Fails as soon as a cell does.

Unlike `jupyter execute` it meets the kernel in a folder of its own. Ports are chosen before the kernel takes them, and
may by then have gone to another notebook that starts in the same moment.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

SECONDS_A_CELL = 600


def execute(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        kernel = AsyncKernelManager(
            kernel_name=notebook.metadata.kernelspec.name,
            transport="ipc",
            connection_file=f"{folder}/kernel.json",
            ip=f"{folder}/socket",
        )
        where = {"metadata": {"path": str(path.parent)}}
        client = NotebookClient(notebook, km=kernel, timeout=SECONDS_A_CELL, resources=where)
        client.owns_km = True  # so that it ends the kernel
        client.execute()


if __name__ == "__main__":
    begin = time.monotonic()
    try:
        execute(Path(sys.argv[1]))
    except CellExecutionError as error:
        sys.exit(f"{sys.argv[1]}:\n{error}")
    print(f"{sys.argv[1]}: {time.monotonic() - begin:.0f} s")
