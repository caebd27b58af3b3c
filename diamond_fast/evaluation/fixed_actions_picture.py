"""What a world model imagines from one moment, a row for each action."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diamond_fast.evaluation.fixed_actions import Rollouts

_FRAME_WIDTH = 128  # pixels, at least
_GAP, _LEFT, _HEAD = 4, 100, 28


def save_rows(path: Path, rollouts: Rollouts, moment: int, times: tuple[int, ...]) -> None:
    """Writes a PNG: the real frame before the first imagined one, then those after so many steps.

    Args:
        path: the file; its folder must exist.
        moment: which of those in ``rollouts``.
        times: from 1 to the number of imagined frames.

    Raises:
        OSError: the disk refused.
    """
    before = rollouts.last_seen[moment]
    scale = -(-_FRAME_WIDTH // before.shape[1])
    height, width = before.shape[0] * scale, before.shape[1] * scale
    across, down = width + _GAP, height + _GAP
    sheet = Image.new("RGB", (_LEFT + (len(times) + 1) * across, _HEAD + len(rollouts.imagined) * down), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for column, time in enumerate((0, *times)):
        title = f"t = {time}" if time else "real"
        draw.text((_LEFT + column * across + width / 2, _HEAD / 2), title, "black", font, anchor="mm")
    for row, (name, frames) in enumerate(rollouts.imagined.items()):
        top = _HEAD + row * down
        draw.text((_LEFT - 12, top + height / 2), name, "black", font, anchor="rm")
        for column, frame in enumerate([before, *(frames[moment, time - 1] for time in times)]):
            enlarged = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (_LEFT + column * across, top))
    sheet.save(path, format="PNG")
