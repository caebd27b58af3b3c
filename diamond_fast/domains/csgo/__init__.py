"""Counter-Strike, deathmatch on Dust II, from recordings (paper, section 6)."""

from dataclasses import replace

from diamond_fast.domains import recordings
from diamond_fast.recording_presets import CSGO

DOMAIN = replace(recordings.DOMAIN, name="csgo", presets={"csgo": CSGO})
