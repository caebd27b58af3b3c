"""Registers the environment; ViZDoom is imported when one is made."""

import gymnasium

from diamond_fast.domains.doom import ENV_ID

gymnasium.register(ENV_ID, entry_point="diamond_fast.domains.doom.deathmatch:Deathmatch")
