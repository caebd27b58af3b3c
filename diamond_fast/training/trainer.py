"""DIAMOND's training loop (paper, algorithm 1): collect, train denoiser, reward/end model and policy, evaluate."""

import math
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch

from diamond_fast.config import RunConfig, UpdateConfig
from diamond_fast.domains import has_env
from diamond_fast.domains.environments import make_env
from diamond_fast.engine.choose import choose_path, set_matmul_precision
from diamond_fast.engine.contest import Work
from diamond_fast.engine.world import at_play
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.envs.on_device import OnDeviceEnv
from diamond_fast.envs.real import RealEnv
from diamond_fast.evaluation.returns import Evaluation
from diamond_fast.networks.reward_end.model import END_NAMES, REWARD_NAMES
from diamond_fast.runs import checkpoint
from diamond_fast.runs.agents import load_weights
from diamond_fast.runs.background import BackgroundWriter
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import Logger, Metrics, classification
from diamond_fast.runs.progress import Progress, duration
from diamond_fast.runs.signals import Stopped, StopSignals
from diamond_fast.settings import to_json
from diamond_fast.training.actions import find_action, with_names
from diamond_fast.training.collect import Collected, Collector
from diamond_fast.training.conditions import conditions, path_begun_with, why_not_bit_for_bit
from diamond_fast.training.evaluator import Evaluator
from diamond_fast.training.make_updates import make_updates
from diamond_fast.training.preview import Preview
from diamond_fast.training.process_group import ProcessGroup, ProcessLostError
from diamond_fast.training.resuming import load_progress
from diamond_fast.training.trial import path_that_works
from diamond_fast.training.update import Update
from diamond_fast.world_model import Agent

INITIAL_CHUNK = 500  # steps collected between chances to stop
SAVE_EVERY = 300.0  # seconds, at most, of work that a crash in the middle of a long epoch can cost


class Trainer:
    """One run: its models, data and environments, and the loop over them.

    Args:
        cfg: every setting.
        folder: where the run lives; created by the caller, who also holds its lock.
        device: where the networks run.
        agent: networks to start from; new ones if None.
        logger: dashboard that gets the scalars in addition to ``metrics.jsonl``.
        cuda_graphs: on a GPU, captures each update as one graph.
        group: processes that train along; this one leads them.

    A folder that holds a checkpoint is continued from it, exactly: weights, optimisers, replay, environments and
    random numbers.

    Raises:
        ValueError: settings that do not fit together, or data on disk that does not belong to them.
    """

    def __init__(
        self,
        cfg: RunConfig,
        folder: RunFolder,
        device: torch.device,
        agent: Agent | None = None,
        logger: Logger = "none",
        cuda_graphs: bool = True,
        group: ProcessGroup | None = None,
    ):
        self.group = group
        self.cfg, self.folder, self.device = cfg, folder, device
        set_matmul_precision(cfg.precision)
        torch.manual_seed(cfg.seed)

        self.train_env = self._make_train_env()
        of_game = None if self.train_env is None else self.train_env.action
        saved, self.replay = load_progress(folder, cfg, of_game)
        action = find_action(cfg, of_game, saved, agent, self.replay)
        self.agent = Agent(cfg, action) if agent is None else with_names(agent, cfg, action)
        self.agent.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
        before = path_begun_with(saved.state["conditions"], device) if saved else None
        work = Work.of(self.agent.denoiser, cfg.world_model.sampler, cfg.actor_critic_update.batch_size)
        path = choose_path(device, cfg.precision, cfg.engine, cuda_graphs and group is None, work, before)
        self.path = path_that_works(cfg, action, path)  # followers take the same
        recording = self.replay if self.train_env is None else None
        self.evaluator = Evaluator(cfg, folder, self.agent, self.path, recording, self._seed)
        shown = self.evaluator.held_out or self.replay
        self.preview = Preview(cfg, folder, self.agent, self.path, shown, self._seed("preview"))
        self.collector, real_env = None, None
        if self.train_env is not None and cfg.model_free:
            real_env = OnDeviceEnv(self.train_env, device, self._seed("model_free"))
        elif self.train_env is not None and cfg.static_dataset is None:
            self.collector = Collector(self.train_env, self._seed("collect"))
        segments_seed = self._seed("segments")
        self.updates = make_updates(cfg, self.agent, self.replay, self.path, segments_seed, real_env, self.group)

        self.epoch = 0
        """Epochs finished."""
        self.figures: dict[str, Any] = {}
        """Metrics of the epoch under way, from those of its phases that are done."""
        self.at_work: Update | None = None
        """The update under way."""
        self.num_epochs = 0  # known once the initial collection is done
        self.env_steps = 0
        self._saving = BackgroundWriter()
        self._save_seconds = 0.0
        self._last_save = time.monotonic()
        self._collecting = False  # buffer, environments and policy's memory are not in step then
        self._stop = StopSignals()
        if saved:
            self._restore(saved)
        if self.collector is not None:
            self.collector.begin()  # now: an environment that cannot begin should end no run under way
        if group is not None:
            states = {name: update.state_dict() for name, update in self.updates.items()}
            journal, done = str(folder.journal), sum(u.num_updates for u in self.updates.values())
            group.broadcast(
                action.to_json(), self.agent.state_dict(), states, segments_seed, journal, done, self.path.name
            )
            self._share_experience()
        self.metrics = Metrics(folder.metrics_file, self.epoch if saved else -1, logger, to_json(cfg))
        self.preview.begin(partial(print, flush=True))

    def _make_train_env(self) -> RealEnv | None:
        """None if there is only a recording."""
        cfg = self.cfg
        if not has_env(cfg):
            return None
        num_envs = cfg.actor_critic_update.batch_size if cfg.model_free else cfg.collection.num_envs
        return make_env(cfg, num_envs, done_on_life_loss=True)

    # --- the loop ---

    def run(self, stop: StopSignals | None = None) -> Evaluation | float | None:
        """Trains to the end and returns the final evaluation.

        Without games for a policy to play it is the denoiser's loss on held-out episodes; None if there are none.

        Args:
            stop: signals to obey. When one comes, what is done is saved, in mid-epoch too, before Stopped is raised.

        Raises:
            NonFiniteError, FloatingPointError: a loss, gradient or weight became NaN or infinite; it was not saved.
            OSError: the disk refused to take something.
            OutOfMemoryError: of torch.
            EnvironmentFailedError: an environment raised something, or does not answer.
        """
        self._stop = stop or self._stop
        try:
            return self._run()
        except Stopped:
            self._save()
            self._saving.wait()
            raise

    def _run(self) -> Evaluation | float | None:
        if self.num_epochs == 0:
            self._collect_initially()
        plan = self._plan()
        with Progress(self.num_epochs, plan, done=self.epoch) as self.progress:
            while self.epoch < self.num_epochs:
                self._run_epoch(self.epoch + 1)
                with self._stop.deferred():
                    self._finish_saving()  # no epoch ends before the one before it is safe
                    figures, self.figures = self.figures, {}
                    self.epoch += 1
                    self._log(figures)
                    if self.epoch % self.cfg.checkpoint_every == 0 or self.epoch == self.num_epochs:
                        self._save()
                if self.epoch % self.cfg.evaluation.every == 0 and self.epoch < self.num_epochs:
                    self.evaluator.draw_learning_curves()
                self.progress.epoch_done(_summary(figures))
                self.preview.refresh_if_due(self.progress.say)
            self._finish_saving()
            result, figures = self.evaluator.final(self.epoch + 1, self.progress)
            if figures:
                self._log(figures)
            if figures or self.train_env is None:
                self.evaluator.draw_learning_curves()
            self.preview.end(self.progress.say)
            return result

    def _run_epoch(self, epoch: int) -> None:
        """What is left of an epoch. Evaluations may be left anywhere, the rest changes what is saved."""
        started = time.monotonic() - self.figures.get("epoch_seconds", 0.0)
        try:
            if self._collects(epoch) and "collect/seconds" not in self.figures:
                with self._stop.deferred():
                    self.figures |= self._collect_figures(self._collect(self.cfg.collection.steps_per_epoch))
            for name, update in self.updates.items():
                if f"{name}/updates" not in self.figures:
                    with self._stop.deferred():
                        self.figures |= self._train(name, update, epoch)
            if epoch % self.cfg.evaluation.every == 0:
                self._save_if_due()
                self.figures |= self.evaluator.figures(epoch, self.progress)
        finally:
            self.figures["epoch_seconds"] = time.monotonic() - started

    def _log(self, figures: dict[str, Any]) -> None:
        figures["save_seconds"], self._save_seconds = self._save_seconds, 0.0
        self.metrics.log(figures, epoch=self.epoch, env_steps=self.env_steps)

    def close(self) -> None:
        if (
            self.group is not None and self.at_work is None
        ):  # in the middle of an update the others notice by themselves
            with suppress(ProcessLostError):
                self.group.broadcast("end")
        try:
            self._saving.close()
        except OSError as error:  # only if something else ended the run before this could
            print(f"checkpoint not written: {error}", flush=True)
        if self.train_env is not None:
            self.train_env.close()
        self.replay.close()
        self.metrics.close()

    # --- collect ---

    def _collect_initially(self) -> None:
        """Collects until rewards have been seen often enough; the rest of the run follows from how long that took."""
        c = self.cfg.collection
        if self.collector is None:
            self.env_steps = self.replay.num_steps
            self.num_epochs = self.cfg.num_final_epochs
            self._save()
            return
        so_far = Collected(**self.figures.get("collected", {}))
        with Progress(1, {"collect": c.first_epoch_min}) as self.progress:
            while (num_steps := self._initial_steps_to_come()) > 0:
                with self._stop.deferred():
                    so_far.add(self._collect(num_steps))
                    self.figures["collected"] = vars(so_far)
                    self._save_if_due()
            self.progress.say(
                f"initial collection: {self.env_steps} steps, rewards "
                + ", ".join(f"{n}: {k}" for n, k in zip(REWARD_NAMES, self.replay.reward_counts.tolist(), strict=True))
            )
        with self._stop.deferred():
            self.figures = {}
            epochs_collecting = (c.num_steps_total - self.env_steps) // c.steps_per_epoch
            self.num_epochs = epochs_collecting + self.cfg.num_final_epochs
            self._log(self._collect_figures(so_far))
            self._save()

    def _initial_steps_to_come(self) -> int:
        """Number of steps of the next stretch; 0 if enough was seen."""
        c = self.cfg.collection
        if self.env_steps < c.first_epoch_min:
            num_chunks = math.ceil(INITIAL_CHUNK / c.num_envs)
            return min(num_chunks * c.num_envs, c.first_epoch_min - self.env_steps)
        enough = self._rarer_rewards() >= c.first_epoch_threshold_rew or self.env_steps >= c.first_epoch_max
        return 0 if enough else c.steps_per_epoch

    def _rarer_rewards(self) -> int:
        """Steps with the two reward signs other than the most frequent one."""
        counts = self.replay.reward_counts
        return int(counts.sum() - counts.max())

    def _collects(self, epoch: int) -> bool:
        return self.collector is not None and epoch <= self.num_epochs - self.cfg.num_final_epochs

    def _collect(self, num_steps: int) -> Collected:
        assert self.collector is not None
        c = self.cfg.collection
        self._collecting = True
        with self.progress.phase("collect", num_steps) as phase:
            policy = at_play(self.agent.actor_critic, self.path)
            collected = self.collector.collect(
                policy, self.replay, num_steps, c.epsilon, c.policy_temperature, phase.advance
            )
        self._collecting = False
        self._share_experience()
        collected.seconds = phase.seconds
        self.env_steps = self.replay.num_steps
        return collected

    def _collect_figures(self, collected: Collected) -> dict[str, Any]:
        figures: dict[str, Any] = {
            "collect/seconds": collected.seconds,
            "collect/steps_per_second": collected.num_steps / collected.seconds,
            "collect/episodes": len(collected.returns),
            "replay/episodes": self.replay.num_episodes,
            "replay/rewards": dict(zip(REWARD_NAMES, self.replay.reward_counts, strict=True)),
            "replay/ends": self.replay.end_counts[1],
        }
        if collected.returns:
            figures["collect/return_mean"] = np.mean(collected.returns)
            figures["collect/length_mean"] = np.mean(collected.lengths)
        return figures

    def _share_experience(self) -> None:
        if self.group is not None and self.cfg.static_dataset is None:
            self.group.broadcast("collected", self.replay.commit())

    # --- train ---

    def _num_updates(self, cfg: UpdateConfig, epoch: int) -> int:
        if epoch <= cfg.start_after_epochs:
            return 0
        return cfg.steps_first_epoch if epoch == 1 else cfg.steps_per_epoch

    def _train(self, name: str, update: Update, epoch: int) -> dict[str, Any]:
        num_updates = self._num_updates(update.cfg, epoch)
        if num_updates == 0:
            return {}

        def advance() -> None:
            phase.advance()
            stops = self._stop.has_come
            if self.group is not None:
                self.group.broadcast_flag(not stops)
            if stops:
                self._stop.check()
            self._save_if_due()
            self.preview.refresh_if_due(self.progress.say)

        self.at_work = update
        if self.group is not None:
            self.group.broadcast("train", name, num_updates)
        with self.progress.phase(name, num_updates - update.done) as phase:
            figures = update.train(num_updates, advance)
        self.at_work = None
        for key, names in (("confusion_reward", REWARD_NAMES), ("confusion_end", END_NAMES)):
            if key in figures:
                figures[key.removeprefix("confusion_")] = classification(np.array(figures[key]), names)
        frames = update.cfg.batch_size * update.cfg.grad_acc_steps * self._frames_per_sample(name)
        # An epoch that a resumed run began in the middle has the time and speed of what was left.
        speed = frames * phase.done / phase.seconds
        figures |= {"seconds": phase.seconds, "frames_per_second": speed, "updates": num_updates}
        if self.cfg.model_free:
            self.env_steps += frames * num_updates
        return {f"{name}/{key}": value for key, value in figures.items()}

    def _frames_per_sample(self, name: str) -> int:
        """Frames a sample of a batch holds: those denoised, classified, or played."""
        return {
            "denoiser": 1 + self.cfg.num_autoregressive_steps,
            "student": 1 + self.cfg.num_autoregressive_steps,
            "upsampler": 1 + self.cfg.upsampler_autoregressive_steps,
            "reward_end": self.cfg.reward_end_seq_length - 1,
            "actor_critic": self.cfg.actor_critic_loss.backup_every,
        }[name]

    # --- save and restore ---

    def _finish_saving(self) -> None:
        started = time.monotonic()
        self._saving.wait()
        self._save_seconds += time.monotonic() - started

    def _save(self) -> None:
        """Copies everything; the copy is written while training goes on, and the next save waits for it."""
        self._finish_saving()
        started = time.monotonic()
        tensors = {name: model.state_dict() for name, model in self.agent.named_children()}
        state = {
            "epoch": self.epoch,
            "action": self.agent.spec.action.to_json(),
            "formulation": self.cfg.formulation,
            "figures": self.figures,
            "num_epochs": self.num_epochs,
            "env_steps": self.env_steps,
            "replay": self.replay.commit(),
            "collector": None if self.collector is None else self.collector.state_dict(),
            "updates": {name: update.state_dict() for name, update in self.updates.items()},
            "conditions": conditions(self.path),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        snapshot = checkpoint.snapshot(self.epoch, tensors, state)
        self._saving.start(partial(self._write, snapshot))
        self._last_save = time.monotonic()
        self._save_seconds += self._last_save - started

    def save_after_fault(self) -> bool:
        """Saves what was done before an error of the path, if that is whole. Whether it is.

        The batch or rollout that the error came in is given up.
        """
        if self._collecting:
            return False
        try:
            if self.at_work is not None:
                self.at_work.objective.recover()
                self.at_work.check_weights()
            self._save()
            self._saving.wait()
        except Exception:  # the device may be lost, and with it what was done since the last checkpoint
            return False
        return True

    def _save_if_due(self) -> None:
        """Saves in the middle of an epoch if that has not been done for long. A later run goes on from there."""
        if time.monotonic() - self._last_save >= SAVE_EVERY:
            self._save()

    def _write(self, snapshot: checkpoint.Snapshot) -> None:
        checkpoint.write(self.folder.checkpoints, snapshot)
        self.folder.no_checkpoint_yet.unlink(missing_ok=True)

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.state
        now = conditions(self.path)
        if reason := why_not_bit_for_bit(state["conditions"], now):
            print(reason, flush=True)
        load_weights(self.agent, self.cfg, saved)
        for name, update in self.updates.items():
            update.load_state_dict(state["updates"][name])
        if self.collector is not None:
            self._restore_collector(self.collector, state["collector"])
        self.epoch, self.num_epochs, self.env_steps = state["epoch"], state["num_epochs"], state["env_steps"]
        self.figures = state["figures"]
        torch.set_rng_state(state["rng"])
        if state["rng_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng_cuda"], self.device)

    def _restore_collector(self, collector: Collector, state: dict[str, Any]) -> None:
        try:
            collector.load_state_dict(state)
        except EnvironmentFailedError:
            raise
        except RuntimeError as error:  # a user's environment that does not repeat itself
            print(f"{error}. Starting new games: this run goes on, but not exactly as it would have.", flush=True)
            self.collector = Collector(collector.env, self._seed(f"collect after {self.replay.num_steps} steps"))
            self.replay.close_episodes()

    def _seed(self, purpose: str) -> int:
        """A seed of its own for each use of random numbers."""
        return int(np.random.SeedSequence([self.cfg.seed, zlib.crc32(purpose.encode())]).generate_state(1)[0])

    def _plan(self) -> dict[str, int]:
        """Steps still to come, by phase."""
        left = range(self.epoch + 1, self.num_epochs + 1)
        plan = {name: sum(self._num_updates(u.cfg, e) for e in left) - u.done for name, u in self.updates.items()}
        plan["collect"] = sum(map(self._collects, left)) * self.cfg.collection.steps_per_epoch
        return plan | self.evaluator.plan(left)


def _summary(figures: Mapping[str, Any]) -> str:
    """An epoch's one line."""
    parts = [
        f"{name} loss {figures[f'{name}/loss']:.4f}"
        for name in ("denoiser", "student", "upsampler", "reward_end")
        if f"{name}/loss" in figures
    ]
    if "actor_critic/policy_entropy_bits" in figures:
        parts.append(f"policy entropy {figures['actor_critic/policy_entropy_bits']:.2f} bits")
    if "test/return_mean" in figures:
        parts.append(f"test return {figures['test/return_mean']:.1f}")
    return ", ".join([*parts, duration(figures["epoch_seconds"])])
