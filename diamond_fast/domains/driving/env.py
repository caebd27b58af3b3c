"""Driving: Gymnasium's CarRacing with the two actions of a car, ten pictures a second. Needs the extra ``driving``."""

import gymnasium

ENV_ID = "diamond_fast/Driving-v0"

gymnasium.register(ENV_ID, entry_point="diamond_fast.domains.driving.car_racing:Driving")
