"""One Atari game with DIAMOND's preprocessing (paper, appendix E), on ale_py's C++ vector environment."""

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from diamond_fast.domains.atari.games import resolve_game, rom_id
from diamond_fast.envs.slot import SlotStep
from diamond_fast.spec import Action, Discrete, Frame

MAX_FRAMES_PER_GAME = 108_000
"""A game is cut short after half an hour at 60 frames a second."""


class AtariSlot:
    """An emulator and its thread: each action is repeated for 4 frames, the maximum of the last two is resized by area.

    Games begin with 0 to 30 no-ops (published: 1 to 30) and do not repeat actions at random. One emulator per slot, not
    ale_py's own batch of several: as fast (within 3 % on 2 cores), and a slot that has nothing to do costs nothing.

    The emulator's thread never answers an action that is out of range: whoever sends must check.

    Args:
        game: usual name, e.g. Boxing.
        frame_size: of the frames in pixels: height and width, or one number for both.
        max_noops: no-ops at a game's start, at most.

    Raises:
        ValueError: ale_py does not know the game.
    """

    seed_lasts = 8_000
    """A seed costs 95 ms: the emulator is built anew, for a game started in a used one can depend on the games before
    (Assault, Frostbite). This many steps take some 4 s to repeat, and make seeding cost 2 % of them."""

    def __init__(self, game: str, frame_size: int | tuple[int, int], max_noops: int = 30):
        self.frame = Frame.of_size(frame_size)
        self._env = AtariVectorEnv(
            rom_id(resolve_game(game)),
            num_envs=1,
            num_threads=1,
            max_num_frames_per_episode=MAX_FRAMES_PER_GAME,
            repeat_action_probability=0.0,
            full_action_space=False,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=self.frame.height,
            img_width=self.frame.width,
            grayscale=False,
            stack_num=1,
            frameskip=4,
            maxpool=True,
            noop_max=max_noops + 1,  # ale_py draws from 0 to noop_max - 1
            # Life losses are read off the lives: `life_loss_info` misses some and returns uninitialised frames.
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        action_space = self._env.single_action_space
        assert isinstance(action_space, spaces.Discrete)
        self.action: Action = Discrete(int(action_space.n))

    def reset(self, seed: int) -> tuple[np.ndarray, int]:
        obs, info = self._env.reset(seed=seed)
        return obs[0, 0], int(info["lives"][0])

    def send(self, action: np.ndarray) -> None:
        self._env.send(np.array([action]))

    def recv(self) -> SlotStep:
        obs, rewards, terminations, truncations, info = self._env.recv()
        frame, first_frame = obs[0, 0], None
        if terminations[0] or truncations[0]:
            frame, first_frame = info["final_obs"][0, 0], frame
        return SlotStep(
            frame, float(rewards[0]), bool(terminations[0]), bool(truncations[0]), int(info["lives"][0]), first_frame
        )

    def close(self) -> None:
        del self._env  # its destructor stops the emulator's thread
