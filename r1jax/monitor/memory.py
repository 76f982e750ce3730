"""The most memory that was held at once: by a device where it says so, else by this process."""

import pathlib
import resource

import jax


def peak_memory() -> dict[str, float]:
    """GB under a name that says whose they are; of devices, the one that held the most."""
    peaks = [
        stats["peak_bytes_in_use"]
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    if peaks:
        return {"memory/device_peak_gb": max(peaks) / 1e9}
    return {"memory/process_peak_gb": process_peak_bytes() / 1e9}


def process_peak_bytes() -> int:
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the parent held when it forked
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes
