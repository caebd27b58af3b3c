"""``python -m diamond_fast.doctor``: what is installed, what is fast, what to expect, and what to do about the rest."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

try:
    from tyro.conf import arg

    from diamond_fast import health
    from diamond_fast.cli import parse, user_errors
    from diamond_fast.health import Finding
    from diamond_fast.runs.output import lasting_output
except ImportError as error:  # not even this can run: say so without a traceback
    raise SystemExit(f"{error.name} is not installed; in the project's folder: pip install -e .") from None

PROGRAM = "python -m diamond_fast.doctor"
EXIT_UNUSABLE = 1
ATARI_ACTIONS = 18  # of the games with the most
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@dataclass(frozen=True)
class DoctorArgs:
    """Say what is installed, which fast paths are on and why others are not, and what the paper's run would take.

    Exit code 0 if the project is usable, 1 if it is not; each finding that can be helped ends in one line of
    what to do.
        python -m diamond_fast.doctor
    """

    device: Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """The speed of this device is measured."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(DoctorArgs, argv, prog=PROGRAM)
    print(health.platform_line())
    findings = show("Installed", health.installed())
    broken = show("Broken", health.imports(), only_if_any=True)
    findings += broken
    if not broken:
        findings += show("Game", [health.game()])
        findings += show("GPU", health.gpus())
        findings += show("Fast paths", health.fast_paths())
        with user_errors():
            findings += expect(args.device)
    remedies = [f"{finding.name}: {finding.remedy}" for finding in findings if finding.remedy]
    if remedies:
        print("\nWhat would help")
        print("\n".join(f"  {remedy}" for remedy in remedies))
    fatal = [finding.name for finding in findings if finding.fatal]
    print("\nNot usable: " + ", ".join(fatal) if fatal else "\nUsable.")
    return EXIT_UNUSABLE if fatal else 0


def show(title: str, findings: Iterable[Finding], only_if_any: bool = False) -> list[Finding]:
    """Print findings as they come, and return them."""
    shown: list[Finding] = []
    if not only_if_any:
        print(f"\n{title}")
    for finding in findings:
        if only_if_any and not shown:
            print(f"\n{title}")
        print(f"  {finding.name:18} {finding.state:8}{finding.detail}", flush=True)
        shown.append(finding)
    return shown


def expect(device_name: str) -> list[Finding]:
    """Print what the paper's run would take on this machine, and where figures of other machines are."""
    from diamond_fast.devices import resolve_device
    from diamond_fast.estimate import describe, estimate
    from diamond_fast.presets import PRESETS

    device, paper = resolve_device(device_name), PRESETS["atari100k"]
    print(f"\nThe paper's run (--preset atari100k) on {device}")
    for line in describe(paper, ATARI_ACTIONS, device).splitlines():
        print(f"  {line}")
    findings = show("Engines for its frames", health.engines(device, paper))
    findings += show("Its frames, imagined", [health.fast_denoiser(device, paper)])
    total = estimate(paper, ATARI_ACTIONS)
    findings += show("Room for it", health.memory(device, total.model_bytes, total.replay_bytes))
    if device.type == "cpu":
        remedy = "train on a CUDA GPU; on a CPU take --preset catch, or quick"
        findings.append(Finding("the paper's run", "off", "no GPU", remedy))
    measured = sorted(RESULTS.glob("*.json"))  # there in a checkout only
    if measured:
        print(f"\nMeasured before ({RESULTS})")
        for file in measured:
            print(f"  {file.name:22} {json.loads(file.read_text()).get('machine', 'machine not recorded')}")
    return findings


if __name__ == "__main__":
    sys.exit(main())
