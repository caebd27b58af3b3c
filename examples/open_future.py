"""Does a student take sides where its teacher does? A ball appears in one of four columns, at random.

python examples/open_future.py --seeds 0 1 2 trains a small denoiser on it, distils it into a single step with each way
of training a student, and prints how far frames spread over noise, and how often the ball is in the teacher's column.
A few minutes on one core.
"""

import argparse
import copy
import json
from dataclasses import replace

import torch

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SamplerConfig, SigmaDistributionConfig
from diamond_fast.consistency import CONSISTENCY, TRAINED_WITH, Consistency
from diamond_fast.distillation import distillation_loss, only_step, regression
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import Denoiser, DiffusionSampler

HEIGHT, WIDTH, COLUMNS, BALL = 6, 12, 4, 3  # pixels, but for the columns
STEPS = SamplerConfig()  # three, as published
INNER = InnerModelConfig(
    num_steps_conditioning=1, cond_channels=32, depths=(1, 1), channels=(16, 16), attn_depths=(0, 0)
)


def episodes(count, generator):
    """[N,2,3,H,W] a frame with a paddle alone, then one with a ball above; actions [N,2] and mask [N,2]."""
    obs = -torch.ones(count, 2, 3, HEIGHT, WIDTH)
    paddles, balls = torch.randint(COLUMNS, (2, count), generator=generator)
    for frames, paddle, ball in zip(obs, paddles, balls, strict=True):
        frames[:, 1, -2:, BALL * paddle : BALL * (paddle + 1)] = 1
        frames[1, :, :BALL, BALL * ball : BALL * (ball + 1)] = 1
    return obs, torch.zeros(count, 2, dtype=torch.int64), torch.ones(count, 2, dtype=torch.bool)


def normal(generator):
    return lambda *shape, device=None: torch.randn(*shape, generator=generator)


def trained(update, model, updates, lr=1e-3):
    """``model`` after so many updates; update(i) gives a loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for i in range(updates):
        optimizer.zero_grad()
        update(i).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def teacher_of(seed, updates):
    torch.manual_seed(seed)
    denoiser = Denoiser(DenoiserConfig(INNER), Spec(Frame(HEIGHT, WIDTH), Discrete(2), context=1))
    generator = torch.Generator().manual_seed(seed + 1)
    levels = SigmaDistributionConfig()
    return trained(lambda i: denoiser.loss(*episodes(32, generator), levels), denoiser, updates)


def student_of(teacher, name, seed, updates):
    student = copy.deepcopy(teacher)
    generator = torch.Generator().manual_seed(seed + 2)
    objective = Consistency(student.formulation.plan(STEPS)) if name == CONSISTENCY else regression
    sampler, step = DiffusionSampler(teacher, STEPS), only_step(student, STEPS)

    def loss(i):
        how = TRAINED_WITH[name], normal(generator), objective
        return distillation_loss(student, sampler, step, *episodes(32, generator), *how).total

    return trained(loss, student, updates)


def frames_of(denoiser, steps, noise, seed):
    """[N,3,H,W] in grey levels: the frame behind one and the same context."""
    obs, act, _ = episodes(1, torch.Generator().manual_seed(seed))
    n = len(noise)
    sampler = DiffusionSampler(denoiser, replace(STEPS, num_steps=steps))
    drawn, _ = sampler.sample(obs[:, :1].expand(n, -1, -1, -1, -1), act[:, :1].expand(n, -1), lambda *a, **k: noise)
    return (drawn + 1) * 127.5


def figures(frames, wanted):
    """Spread and brightness are of the rows in which the ball is."""
    columns = [x[:, :, :BALL].unflatten(-1, (COLUMNS, BALL)).mean((1, 2, 4)) for x in (frames, wanted)]
    return {
        "spread": frames[:, :, :BALL].std(dim=0).mean().item(),
        "from the teacher": (frames - wanted).abs().mean().item(),
        "the teacher's column": (columns[0].argmax(1) == columns[1].argmax(1)).float().mean().item(),
        "brightest column": columns[0].amax(1).mean().item(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--teacher-updates", type=int, default=800)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--samples", type=int, default=256)
    args = parser.parse_args()
    for seed in args.seeds:
        teacher = teacher_of(seed, args.teacher_updates)
        noise = torch.randn(args.samples, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed + 3))
        wanted = frames_of(teacher, STEPS.num_steps, noise, seed)
        ways = {f"teacher, n = {n}": (teacher, n) for n in (1, STEPS.num_steps)}
        ways |= {f"student, {name}": (student_of(teacher, name, seed, args.updates), 1) for name in TRAINED_WITH}
        for way, (denoiser, steps) in ways.items():
            found = figures(frames_of(denoiser, steps, noise, seed), wanted)
            print(json.dumps({"seed": seed, "way": way} | {k: round(v, 3) for k, v in found.items()}), flush=True)


if __name__ == "__main__":
    main()
