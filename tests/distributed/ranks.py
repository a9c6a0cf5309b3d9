"""Processes that share one training, each a real one that can be killed, and what they bring back.

They are forked from a server that has imported everything once: a test pays for its training, not for imports.
"""

import importlib.util
import multiprocessing
import os
import runpy
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

PRELOAD = ("lit_distill.cli.trainer", "matplotlib.figure")


class Ended(NamedTuple):
    """How the processes ended: exit codes (negative: killed by that signal), output, and what they returned."""

    codes: list[int]
    logs: list[str]
    results: list[Any]


def run(job: Callable[..., Any], folder: Path, *args: Any, ranks: int = 2, **kwargs: Any) -> list[Any]:
    """What ``job`` returns on each of ``ranks`` processes, all of which must succeed; see :func:`launch`."""
    ended = launch(job, folder, *args, ranks=ranks, **kwargs)
    assert ended.codes == [0] * ranks, "\n".join(ended.logs)
    return ended.results


def launch(
    job: Callable[..., Any], folder: Path, *args: Any, ranks: int = 2, patience: float = 20.0, **kwargs: Any
) -> Ended:
    """Start ``job(str(folder), *args, **kwargs)`` in gloo processes as torchrun would, and wait for their end.

    Args:
        job: A function of a module, whose file the processes import. It returns tensors and plain values.
        folder: Where the job works, and where its results and output go.
        args: Plain values.
        ranks: How many processes; a single one is not distributed.
        patience: Seconds that the others may take to end by themselves once one has failed; then they are killed.
        kwargs: Plain values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    processes = []
    for rank in range(ranks):
        (folder / f"{rank}.pt").unlink(missing_ok=True)
        call = (job.__code__.co_filename, job.__name__, (str(folder), *args), kwargs)
        task = {"TASK": (*call, rank, ranks, port)}
        process = context.Process(target=runpy.run_path, args=(__file__, task, "__rank__"))
        process.start()
        processes.append(process)
    deadline = time.monotonic() + 120.0
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
        if any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + patience)
    for process in processes:
        process.kill()
        process.join()
    files = [folder / f"{rank}.pt" for rank in range(ranks)]
    return Ended(
        [process.exitcode for process in processes],
        [(folder / f"{rank}.log").read_text(errors="replace") for rank in range(ranks)],
        [torch.load(file, weights_only=True) if file.exists() else None for file in files],
    )


def _work(
    file: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int, ranks: int, port: int
) -> None:
    folder = args[0]
    with open(f"{folder}/{rank}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if ranks > 1:
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
        }
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        result = getattr(module, name)(*args, **kwargs)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    partial = Path(folder, f".{rank}.pt")
    torch.save(result, partial)
    os.replace(partial, Path(folder, f"{rank}.pt"))
    sys.stdout.flush()


if __name__ == "__rank__":
    _work(*TASK)  # noqa: F821 -- given by launch
