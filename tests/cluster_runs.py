"""Runs of several processes on this machine, which meet on a port of the loopback."""

import pathlib
import socket

from forks import Fork
from runs import Runs

HEARTBEAT_S = 10


def start_cluster(runs: Runs, workdir: pathlib.Path, *flags: str, processes: int = 2) -> list[Fork]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        runs.start(
            workdir,
            f"--coordinator_address=127.0.0.1:{port}",
            f"--num_processes={processes}",
            f"--process_id={number}",
            f"--heartbeat_s={HEARTBEAT_S}",
            *flags,
        )
        for number in range(processes)
    ]


def finish(processes: list[Fork], timeout: float = 300) -> list[tuple[str, str]]:
    """(stdout, stderr) of each, when all are over; none is left behind."""
    try:
        return [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
