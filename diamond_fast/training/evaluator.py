"""What a run measures of itself: test games, and its world model on what it was not trained on."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.domains import domain_of, has_env
from diamond_fast.domains.environments import make_env
from diamond_fast.engine.choose import Path
from diamond_fast.engine.world import at_play, judged, with_student
from diamond_fast.evaluation.held_out import denoiser_loss, held_out_figures
from diamond_fast.evaluation.open_loop import imagine_held_out
from diamond_fast.evaluation.returns import Evaluation, about_cut_games, evaluate
from diamond_fast.replay import Replay
from diamond_fast.replay.fitting import check_fits
from diamond_fast.runs.folder import IMAGINED, LEARNING_CURVES, RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.pictures import if_installed, pictured_times, save_frame_grid, save_gif
from diamond_fast.runs.plots import save_learning_curves
from diamond_fast.runs.progress import Progress
from diamond_fast.training.actions import check_full_frames
from diamond_fast.world_model import Agent

FINAL_LOSS = "final_denoiser/held_out_loss"


class Evaluator:
    """Test games, held-out losses and pictures of a run.

    Held-out are the episodes of ``cfg.held_out`` or, without it, those of the test games.

    Args:
        cfg: every setting.
        folder: takes the pictures.
        agent: what is evaluated.
        path: how its networks are computed.
        recording: what is trained on, if there is no game; shown where nothing is held out.
        seed: gives each use of random numbers a seed of its own.

    Raises:
        ValueError: the held-out recording does not fit the agent, or is damaged.
        OSError: it cannot be read.
    """

    def __init__(
        self,
        cfg: RunConfig,
        folder: RunFolder,
        agent: Agent,
        path: Path,
        recording: Replay | None,
        seed: Callable[[str], int],
    ):
        self.cfg, self.folder, self.agent, self.path = cfg, folder, agent, path
        self.recording, self.seed = recording, seed
        self.make_test_env = partial(make_env, cfg, done_on_life_loss=False)
        self.held_out: Replay | None = None
        self._said = set[str]()
        if cfg.held_out is not None:
            self.held_out = domain_of(cfg).load_recording(FilePath(cfg.held_out))
            check_fits("--held-out", cfg.held_out, self.held_out, cfg.frame_shape, agent.spec.action)
            check_full_frames("--held-out", cfg.held_out, self.held_out, cfg)
        self.plays = has_env(cfg) and (not cfg.world_model_only or self.held_out is None)

    def plan(self, epochs: range) -> dict[str, int]:
        """Games of these epochs and of the run's end, by phase."""
        cfg = self.cfg.evaluation
        if not self.plays:
            return {}
        every, final = sum(epoch % cfg.every == 0 for epoch in epochs), self._num_final_episodes
        return {"evaluate": every * cfg.num_episodes, "final evaluation": final}

    def figures(self, epoch: int, progress: Progress) -> dict[str, Any]:
        """Returns of test games, and the world model's losses on held-out episodes; draws what it imagines of them."""
        cfg, num_episodes = self.cfg, self.cfg.evaluation.num_episodes
        figures, held_out = {}, self.held_out
        if self.plays:
            replay = None if cfg.model_free or held_out is not None else self._room_for(num_episodes)
            with progress.phase("evaluate", num_episodes) as phase:
                result = self._play(num_episodes, epoch, replay, phase.advance, progress)
            if not cfg.world_model_only:
                figures = {"test/seconds": phase.seconds, **_figures(result)}
            held_out = held_out or replay
        if held_out is not None:
            figures |= held_out_figures(judged(self.agent, self.path), held_out, cfg, self.seed("held_out"))
            if figures["denoiser/held_out_loss"] is None:
                games = "test games" if self.held_out is None else "held-out episodes"
                self._say_once(
                    progress,
                    f"denoiser/held_out_loss is left out: the {games} of {cfg.name} have {held_out.num_steps} steps "
                    f"together, a training sequence has {cfg.denoiser_seq_length}.",
                )
        if (shown := held_out or self.recording) is not None:
            self._save_pictures(shown, epoch, progress)
        return figures

    def final(self, index: int, progress: Progress) -> tuple[Evaluation | float | None, dict[str, Any]]:
        """The run's result, and figures of it that are not on record yet.

        Returns:
            the final games or, if no policy plays any, the denoiser's loss on held-out episodes; None without any.
        """
        for line in read_metrics(self.folder.metrics_file):
            if "final_test/returns" in line:
                return Evaluation(np.array(line["final_test/returns"]), np.array(line["final_test/lengths"])), {}
            if FINAL_LOSS in line:
                return line[FINAL_LOSS], {}
        held_out = self.held_out
        if self.plays:
            replay = self._room_for(self._num_final_episodes) if self.cfg.world_model_only else None
            with progress.phase("final evaluation", self._num_final_episodes) as phase:
                result = self._play(self._num_final_episodes, index, replay, phase.advance, progress)
            if not self.cfg.world_model_only:
                return result, {f"final_{name}": value for name, value in _figures(result).items()}
            held_out = replay
        if held_out is None:
            return None, {}
        loss = denoiser_loss(judged(self.agent, self.path), held_out, self.cfg, self.seed("held_out"))
        return loss, {FINAL_LOSS: loss}

    def draw_learning_curves(self) -> None:
        with if_installed(print):
            save_learning_curves(self.folder.new_picture(LEARNING_CURVES), read_metrics(self.folder.metrics_file))

    @property
    def _num_final_episodes(self) -> int:
        """Games at the end: many to tell policies apart, few to tell losses."""
        cfg = self.cfg.evaluation
        return cfg.num_episodes if self.cfg.world_model_only else cfg.num_final_episodes

    def _room_for(self, num_episodes: int) -> Replay:
        capacity, action = num_episodes * self.cfg.evaluation.max_steps, self.agent.spec.action
        return Replay(self.cfg.frame_shape, capacity=capacity, action=action)

    def _play(
        self, num_episodes: int, index: int, replay: Replay | None, advance: Callable[[int], None], progress: Progress
    ) -> Evaluation:
        env = self.make_test_env(num_envs=min(num_episodes, self.cfg.evaluation.num_envs))
        try:
            policy = at_play(self.agent.actor_critic, self.path)
            result = evaluate(policy, env, num_episodes, self.seed("evaluate"), index, replay, advance)
        finally:
            env.close()
        if line := about_cut_games(result, self.cfg):
            progress.say(line)
        return result

    def _say_once(self, progress: Progress, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            progress.say(line)

    def _save_pictures(self, replay: Replay, epoch: int, progress: Progress) -> None:
        self._save_pictures_of(self.agent, self.cfg, replay, f"epoch_{epoch:06d}.png", IMAGINED, progress)
        if self.agent.student is not None:
            agent, world_model = with_student(self.agent, self.cfg.world_model)
            cfg, names = replace(self.cfg, world_model=world_model), (f"student_{epoch:06d}.png", f"student_{IMAGINED}")
            self._save_pictures_of(agent, cfg, replay, *names, progress)

    def _save_pictures_of(
        self, agent: Agent, cfg: RunConfig, replay: Replay, grid: str, gif: str, progress: Progress
    ) -> None:
        context, longest = agent.denoiser.spec.context, max(replay.lengths, default=0)
        horizon = min(cfg.world_model.horizon, longest - context - 1)  # short games are pictured as far as they go
        cfg = replace(cfg, world_model=replace(cfg.world_model, horizon=horizon))
        path = replace(self.path, graphs=False)  # a capture that fails would end the run, and these frames are few
        predictions = imagine_held_out(agent, replay, cfg, path, self.seed("held_out")) if horizon > 0 else None
        if predictions is None:
            line = f"No pictures: a world model sees {context} frames, the longest episode of {cfg.name} has {longest}."
            self._say_once(progress, line)
            return
        segments = list(zip(predictions.real, predictions.imagined, strict=True))
        with if_installed(progress.say):
            save_frame_grid(self.folder.new_picture(grid), segments, pictured_times(horizon))
            save_gif(self.folder.new_picture(gif), segments)


def _figures(result: Evaluation) -> dict[str, Any]:
    return {
        "test/returns": result.returns,
        "test/lengths": result.lengths,
        "test/return_mean": result.mean,
        "test/return_std": result.std,
        "test/return_ci95": result.ci95,
    }
