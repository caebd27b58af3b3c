"""What each of the models is trained on, batch by batch."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from diamond_fast.config import ActorCriticLossConfig, AugmentationConfig
from diamond_fast.distillation import Metric, distillation_loss, only_step, pseudo_huber, regression
from diamond_fast.distillation import Objective as DistillationObjective
from diamond_fast.engine.recompute import Play, Played, recompute
from diamond_fast.engine.rollout import BatchedEnv, Rollout, RolloutState, initial_state, rollout
from diamond_fast.engine.world import Sampler, refresh
from diamond_fast.formulations.config import LevelsConfig, StepsConfig
from diamond_fast.frames import ToFloat, to_float
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.remembering import memory_loss, num_starts
from diamond_fast.replay import Segments
from diamond_fast.training.augment import augment
from diamond_fast.training.update import Figures, Inputs
from diamond_fast.upsampling import upsampler_loss
from diamond_fast.world_model import Denoiser


class ReplayObjective:
    """Common to what is trained on sequences from the replay.

    Frames are drawn as bytes, uint8 [N,L,H,W,C] with a mask [N,L] of those that are real: a graph's inputs are a
    quarter as large then, and it makes floats of them itself.

    Args:
        segments: where batches come from.
        to_float: makes floats of frames.
    """

    def __init__(self, segments: Segments, to_float: ToFloat = to_float):
        self.segments = segments
        self.to_float = to_float

    def begin_epoch(self) -> None:
        pass

    def recover(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"segments": self.segments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.segments.load_state_dict(state["segments"])


class DenoiserObjective(ReplayObjective):
    """Score matching: predict the next frame from its noisy version and its past."""

    def __init__(
        self,
        denoiser: Denoiser,
        segments: Segments,
        sigma_distribution: LevelsConfig,
        to_float: ToFloat = to_float,
        augmentation: AugmentationConfig | None = None,
    ):
        super().__init__(segments, to_float)
        self.augmentation = augmentation or AugmentationConfig()
        self.denoiser = denoiser
        self.sigma_distribution = sigma_distribution

    def draw(self) -> Inputs:
        batch = self.segments.next().to(self.denoiser.device)
        return batch.frames, batch.pixel_mask, batch.act, batch.mask_padding

    def loss(self, frames: Tensor, pixel_mask: Tensor, act: Tensor, mask: Tensor) -> tuple[Tensor, Figures]:
        obs, act = augment(self.to_float(frames, pixel_mask), act, pixel_mask, self.augmentation)
        loss = self.denoiser.loss(obs, act, mask, self.sigma_distribution)
        return loss, {"loss": loss.detach()}


class StudentObjective(ReplayObjective):
    """Distillation: draw in one step what the denoiser draws in several from the same noise.

    Args:
        student: as it is trained.
        denoiser: the teacher, whose weights the student begins with.
        teacher: draws with the denoiser, on copies of its weights or not.
        steps: the teacher's.
        metric: of differences.
        learned: what the student learns of the teacher's trajectory.
    """

    def __init__(
        self,
        student: Denoiser,
        denoiser: Denoiser,
        teacher: Sampler,
        steps: StepsConfig,
        segments: Segments,
        to_float: ToFloat = to_float,
        augmentation: AugmentationConfig | None = None,
        metric: Metric = pseudo_huber,
        learned: DistillationObjective = regression,
    ):
        super().__init__(segments, to_float)
        self.student, self.denoiser, self.teacher = student, denoiser, teacher
        self.step = only_step(student, steps)
        self.augmentation = augmentation or AugmentationConfig()
        self.metric, self.learned = metric, learned
        self.begun = False
        """Whether a batch was ever drawn: until then the student has nothing of its own to lose."""

    def begin_epoch(self) -> None:
        """The teacher is the denoiser as it is now, behind its own updates of the epoch."""
        refresh(self.teacher)
        if not self.begun:
            self._become_the_denoiser()

    @torch.no_grad()
    def _become_the_denoiser(self) -> None:
        pairs = (zip(x(self.student), x(self.denoiser), strict=True) for x in (Module.parameters, Module.buffers))
        for own, its in chain(*pairs):  # by order: names differ if the student is trained as a program
            own.copy_(its)

    def draw(self) -> Inputs:
        self.begun = True
        batch = self.segments.next().to(self.denoiser.device)
        return batch.frames, batch.pixel_mask, batch.act, batch.mask_padding

    def loss(self, frames: Tensor, pixel_mask: Tensor, act: Tensor, mask: Tensor) -> tuple[Tensor, Figures]:
        obs, act = augment(self.to_float(frames, pixel_mask), act, pixel_mask, self.augmentation)
        sequence = obs, act, mask
        how = self.metric, torch.randn, self.learned
        loss = distillation_loss(self.student, self.teacher, self.step, *sequence, *how)
        return loss.total, {"loss": loss.total.detach(), "distance": loss.distance}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.begun = state["begun"]
        refresh(self.teacher)


class MemoryObjective(ReplayObjective):
    """A world model with a memory: score matching, and classification of rewards and ends, in one loss.

    Args:
        num_predicted: frames that the denoiser predicts one after the other, from anywhere in a sequence.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        memory: MemoryModel,
        segments: Segments,
        num_predicted: int,
        sigma_distribution: LevelsConfig,
        to_float: ToFloat = to_float,
        augmentation: AugmentationConfig | None = None,
    ):
        super().__init__(segments, to_float)
        self.augmentation = augmentation or AugmentationConfig()
        self.denoiser, self.memory = denoiser, memory
        self.sigma_distribution = sigma_distribution
        self.num_predicted = num_predicted

    def draw(self) -> Inputs:
        """Behind the batch: the frame that the denoiser's part begins at, one for all sequences."""
        device = self.denoiser.device
        batch = self.segments.next().to(device)
        starts = num_starts(batch.act.size(1), self.denoiser.spec.context, self.num_predicted)
        start = torch.randint(starts, (1,), device=device)
        return batch.frames, batch.pixel_mask, batch.act, batch.rew, batch.end, batch.mask_padding, start

    def loss(
        self, frames: Tensor, pixel_mask: Tensor, act: Tensor, rew: Tensor, end: Tensor, mask: Tensor, start: Tensor
    ) -> tuple[Tensor, Figures]:
        obs, act = augment(self.to_float(frames, pixel_mask), act, pixel_mask, self.augmentation)
        of_sequence = obs, act, rew, end, mask, start, self.num_predicted
        loss = memory_loss(self.denoiser, self.memory, *of_sequence, self.sigma_distribution)
        figures = {"loss": loss.denoiser.detach()}
        if loss.heads is not None:
            figures |= {
                "loss_total": loss.total.detach(),
                "loss_reward": loss.heads.reward.detach(),
                "loss_end": loss.heads.end.detach(),
                "confusion_reward": loss.heads.confusion_reward,
                "confusion_end": loss.heads.confusion_end,
            }
        return loss.total, figures


class UpsamplerObjective(ReplayObjective):
    """Score matching on full frames: predict the next one from its noisy version, the one before, and the small one."""

    def __init__(
        self, upsampler: Denoiser, segments: Segments, sigma_distribution: LevelsConfig, to_float: ToFloat = to_float
    ):
        super().__init__(segments, to_float)
        self.upsampler = upsampler
        self.sigma_distribution = sigma_distribution

    def draw(self) -> Inputs:
        batch = self.segments.next().to(self.upsampler.device)
        return batch.full_frames, batch.frames, batch.pixel_mask, batch.mask_padding

    def loss(self, full: Tensor, frames: Tensor, pixel_mask: Tensor, mask: Tensor) -> tuple[Tensor, Figures]:
        full, small = self.to_float(full, pixel_mask), self.to_float(frames, pixel_mask)
        loss = upsampler_loss(self.upsampler, full, small, mask, self.sigma_distribution)
        return loss, {"loss": loss.detach()}


class RewardEndObjective(ReplayObjective):
    """Classification of reward sign and termination."""

    def __init__(self, reward_end: RewardEndModel, segments: Segments, to_float: ToFloat = to_float):
        super().__init__(segments, to_float)
        self.reward_end = reward_end

    def draw(self) -> Inputs:
        batch = self.segments.next().to(self.reward_end.device)
        return batch.frames, batch.pixel_mask, batch.act, batch.rew, batch.end, batch.mask_padding

    def loss(self, frames: Tensor, pixel_mask: Tensor, *rest: Tensor) -> tuple[Tensor, Figures]:
        """rest: act, rew, end and mask, as ``RewardEndModel.loss`` takes them."""
        loss = self.reward_end.loss(self.to_float(frames, pixel_mask), *rest)
        return loss.total, {
            "loss": loss.total.detach(),
            "loss_reward": loss.reward,
            "loss_end": loss.end,
            "confusion_reward": loss.confusion_reward,
            "confusion_end": loss.confusion_end,
        }


class ActorCriticObjective:
    """Reinforcement learning on rollouts, each continuing where the last one stopped.

    The first one starts from fresh episodes and an empty memory.

    Args:
        play: plays a rollout without gradients; the policy is then computed anew, with them (engine/recompute.py).
            None: they are kept while playing, as published.
        signs: only the signs of rewards count.
    """

    def __init__(
        self,
        policy: ActorCritic,
        env: BatchedEnv,
        cfg: ActorCriticLossConfig,
        play: Play | None = None,
        signs: bool = True,
    ):
        self.policy = policy
        self.signs = signs
        self.play = play
        self.env = env
        self.cfg = cfg
        self.state: RolloutState | None = None

    def begin_epoch(self) -> None:
        self.env.begin_epoch()

    def recover(self) -> None:
        self.state = None

    def draw(self) -> Inputs:
        if self.state is None:
            self.state = initial_state(self.env, self.policy)
        played: Inputs
        if self.play is None:
            played, self.state = rollout(self.env, self.policy, self.state, self.cfg.backup_every)
        else:
            played, self.state = self.play(self.state)
        return played

    def loss(self, *played: Tensor) -> tuple[Tensor, Figures]:
        figures = {}
        if self.play is None:
            r = Rollout(*played)
        else:
            p = Played(*played)
            r = recompute(self.policy, p)
            figures["burnins_without_gradient"] = (p.num_burnins - len(p.burnin_obs)).clamp(min=0).float()
        of_loss = r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap
        loss = actor_critic_loss(*of_loss, self.cfg, self.policy.distribution, self.signs)
        return loss.total, {
            "loss": loss.total.detach(),
            "loss_actions": loss.actions,
            "loss_values": loss.values,
            "loss_entropy": loss.entropy,
            "policy_entropy_bits": loss.policy_entropy_bits,
            "reward_per_step": r.rew.mean(),
            "ends_per_step": r.end.float().mean(),
            **figures,
        }

    def state_dict(self) -> dict[str, Any]:
        rollout_state = None if self.state is None else self.state._asdict()
        return {"rollout": rollout_state, "env": self.env.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.policy.device
        env, saved = state["env"], state["rollout"]
        if saved is not None and len(saved["obs"]) != self.env.num_envs:
            # Another number of processes shares the episodes from now on: they begin anew.
            env, saved = {**env, "state": None}, None
        self.env.load_state_dict(env)
        self.state = None if saved is None else RolloutState(**{k: v.to(device) for k, v in saved.items()})
