"""Where the time of frames and updates goes on a GPU, kernel by kernel, in two minutes.

    python benchmarks/gpu_profile.py frames updates > profile.txt     all of it
    python benchmarks/gpu_profile.py actor_critic                     one update: a first one compiles for a minute

Frames are drawn on every path that the device has, updates done on the first. Each is called until its graph is
captured, timed by the median of 20 calls, and profiled: what is printed are the kernels that take longest, microseconds
and launches of a call. Run it with CUDA; elsewhere it shows torch's operations, at tiny size.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile
from workloads import PAPER, TINY, contexts, make_agent, make_denoiser, noise_replay

from diamond_fast.config import SamplerConfig
from diamond_fast.engine.choose import candidates
from diamond_fast.engine.contest import Work
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.graphs import WARM_UP_CALLS, Captured
from diamond_fast.timing import wait_for
from diamond_fast.training.make_updates import make_updates

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
CFG = PAPER if ON_GPU else TINY
BATCHES = (32, 1, 8, 128) if ON_GPU else (2,)
CALLS = 20 if ON_GPU else 1
TOP = 20


def show(title: str, call: Callable[[], object]) -> float:
    """Times a call and prints what it is made of. Returns its seconds."""
    for _ in range(WARM_UP_CALLS + 2 if ON_GPU else 1):
        call()
    wait_for(DEVICE)
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        wait_for(DEVICE)
        seconds.append(time.perf_counter() - started)
    with profile(activities=[ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU]) as profiled:
        call()
        wait_for(DEVICE)
    took, launches = Counter[str](), Counter[str]()
    for event in profiled.events() or []:
        if (event.device_type == torch.autograd.DeviceType.CUDA) == ON_GPU:
            took[event.name] += event.time_range.elapsed_us()
            launches[event.name] += 1
    print(f"\n{title}: {1e3 * median(seconds):.3f} ms, of which {took.total() / 1e3:.3f} in {launches.total()} kernels")
    for name, microseconds in took.most_common(TOP):
        print(f"{microseconds:12.1f} us {launches[name]:6d} x  {name[:100]}")
    sys.stdout.flush()
    return median(seconds)


def frames() -> None:
    """Frames in three steps, as a run draws them."""
    denoiser, steps = make_denoiser(CFG.denoiser, DEVICE), SamplerConfig()
    for n in BATCHES:
        work, given = Work.of(denoiser, steps, n), contexts(n, CFG.frame_size, CFG.frame_size, DEVICE)
        for path in candidates(DEVICE, "bf16", work=work):
            if path.engine == "readable":
                continue
            network, dtype = denoiser.inner_model, path.dtype
            sampler = fast_sampler(work.formulation, network, steps, DEVICE, dtype, path.techniques, path.engine)
            draw = Captured("a profile", sampler.sample) if path.graphs else sampler.sample
            noise = torch.randn(sampler.num_draws, n, *given.obs.shape[2:], device=DEVICE)
            took = show(f"{n} frames, {path.name}", lambda d=draw, z=noise, g=given: d(g.obs.flatten(1, 2), g.act, z))
            print(f"{n * steps.num_steps / took:.0f} evaluations a second")


def updates(*chosen: str) -> None:
    """One update of each model, or of those chosen."""
    agent, path = make_agent(CFG, DEVICE, torch.channels_last), candidates(DEVICE, "bf16")[0]
    for name, update in make_updates(CFG, agent, noise_replay(CFG, 2000), path, segments_seed=0).items():
        if chosen and name not in chosen:
            continue
        with update.autocast():
            update.objective.begin_epoch()
        show(f"update of {name}, {path.name}", update.step)


ONE_UPDATE = {name: partial(updates, name) for name in ("denoiser", "reward_end", "actor_critic")}
PARTS = {"frames": frames, "updates": updates, **ONE_UPDATE}

if __name__ == "__main__":
    for part in sys.argv[1:] or ("frames", "updates"):
        PARTS[part]()
