"""The world model under a name of Gymnasium's registry: importing this module puts it there.

Gymnasium itself imports it for an id that names it:

    gymnasium.make_vec("diamond_fast.gymnasium_envs:diamond_fast/WorldModel-v0", num_envs=32, run="runs/DIR")

Arguments are those of :func:`diamond_fast.envs.of_agent.vector_env`.
"""

import gymnasium

WORLD_MODEL_ID = "diamond_fast/WorldModel-v0"

gymnasium.register(
    WORLD_MODEL_ID,
    entry_point="diamond_fast.envs.of_agent:single_env",
    vector_entry_point="diamond_fast.envs.of_agent:vector_env",
)
