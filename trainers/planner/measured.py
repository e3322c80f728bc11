"""Peak memory of a piece of work, measured: every allocation that it makes is counted."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors alive at once that `work` allocates, beyond what is there before.

    On a GPU this is the allocator's own count; on the CPU the profiler's, of every allocation
    and release.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        work()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in told.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    alive = most = 0
    for _, change in sorted(changes, key=lambda each: each[0]):
        alive += change
        most = max(most, alive)
    return most
