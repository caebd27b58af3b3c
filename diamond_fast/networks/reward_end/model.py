"""The reward and termination model: a conditioned convolutional encoder, an LSTM, two classifiers (appendix C)."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.arguments import check_actions, check_mask, check_tensor
from diamond_fast.networks.backend import Backend, Value
from diamond_fast.networks.blocks import ActionEmbedding, Downsample, ResBlocks, conv3x3, init_lstm
from diamond_fast.networks.exact import at_least_float32, outside_autocast
from diamond_fast.networks.masking import masked_mean
from diamond_fast.networks.reward_end import walk
from diamond_fast.networks.reward_end.coding import coding_of
from diamond_fast.networks.reward_end.config import RewardEndConfig
from diamond_fast.spec import Spec, as_spec

REWARD_NAMES = ("-1", "0", "+1")  # signs
END_NAMES = ("goes_on", "ends")
NUM_ENDS = len(END_NAMES)


class RewardEndEncoder(nn.Module):
    """Residual levels as on the U-Net's way down, then two blocks with attention. [N,2C,H,W] -> [N,C',H',W']."""

    def __init__(self, cfg: RewardEndConfig, img_channels: int):
        super().__init__()
        channels = cfg.channels
        if not len(cfg.depths) == len(channels) == len(cfg.attn_depths) > 0:
            raise ValueError(
                "depths, channels, attn_depths: need one entry per level each, "
                f"got {cfg.depths}, {channels}, {cfg.attn_depths}"
            )
        self.conv_in = conv3x3(2 * img_channels, channels[0])
        levels = zip(cfg.depths, (channels[0], *channels), channels, cfg.attn_depths, strict=False)
        blocks = [
            ResBlocks([c_above] + [c] * (depth - 1), [c] * depth, cfg.cond_channels, bool(attn))
            for depth, c_above, c, attn in levels
        ]
        blocks.append(ResBlocks([channels[-1]] * 2, [channels[-1]] * 2, cfg.cond_channels, attn=True))
        self.blocks = nn.ModuleList(blocks)
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(c) for c in channels[:-1]), nn.Identity()])

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        x = self.conv_in(x)
        for blocks, down in zip(self.blocks, self.downsamples, strict=True):
            x = blocks(down(x), cond)[-1]
        return x

    def walk(self, backend: Backend[Value], x: Value) -> Value:
        """The same as fused operations; x is frame and next frame, concatenated."""
        return walk.reward_end_encoder(backend, self, x)


class RewardEndLoss(NamedTuple):
    """Loss terms (scalars) and confusion matrices (int64, rows: true class, columns: predicted)."""

    total: Tensor
    reward: Tensor
    end: Tensor
    confusion_reward: Tensor  # [3,3]
    confusion_end: Tensor  # [2,2]


class RewardEndModel(nn.Module):
    """Predicts reward and termination of each step from frame, action and next frame.

    Of rewards it predicts the sign, or what else ``cfg.reward_head`` says.

    Args:
        num_actions: the world; a number stands for as many discrete actions, with square frames of ``frame_size``.
    """

    def __init__(self, cfg: RewardEndConfig, num_actions: Spec | int, frame_size: int = 64):
        super().__init__()
        spec = as_spec(num_actions, frame_size, cfg.img_channels)
        self.lstm_dim = cfg.lstm_dim
        self.spec = spec
        self.coding = coding_of(cfg.reward_head)
        self.encoder = RewardEndEncoder(cfg, spec.frame.channels)
        self.act_emb = ActionEmbedding(spec.action, cfg.cond_channels)
        height, width = spec.frame.height, spec.frame.width
        for _ in cfg.channels[1:]:  # a 3x3 convolution of stride 2 and padding 1 rounds up
            height, width = (height + 1) // 2, (width + 1) // 2
        self.lstm = nn.LSTM(cfg.channels[-1] * height * width, cfg.lstm_dim, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(cfg.lstm_dim, cfg.lstm_dim),
            nn.SiLU(),
            nn.Linear(cfg.lstm_dim, self.coding.num_logits + NUM_ENDS, bias=False),
        )
        if not self.coding.signs:  # far bins start, and those never seen stay, as likely as their opposites
            nn.init.zeros_(cast(nn.Linear, self.head[2]).weight[: self.coding.num_logits])
            # The last layer has no bias, so how often each bin comes is learned by all layers. From large hidden
            # numbers the last one learns it in few updates, before Adam's equal steps have driven the LSTM's gates to
            # their ends.
            nn.init.constant_(cast(nn.Linear, self.head[0]).bias, 4.0)
        init_lstm(self.lstm)

    @property
    def device(self) -> torch.device:
        return self.act_emb.weight.device

    def predict(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, hx_cx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """
        Args:
            obs, next_obs: [N,T,C,H,W] in [-1, 1].
            act: [N,T,...].
            hx_cx: LSTM state, each [1,N,D]; zeros if None.

        Returns:
            reward logits [N,T,3], or [N,T,K] of another ``coding``, end logits [N,T,2], the LSTM's new state.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        weight, n, t = self.act_emb.weight, *self._check_sequence(obs, act)
        check_tensor("next_obs", next_obs, tuple(obs.shape), weight)
        if n * t == 0:
            raise ValueError(f"obs: expected at least one sequence of at least one frame, got {list(obs.shape[:2])}")
        for state in hx_cx or ():
            check_tensor("hx_cx", state, (1, n, self.lstm_dim), weight)
        x = torch.cat((obs, next_obs), dim=2).flatten(0, 1)
        x = self.encoder(x, self.act_emb(act.flatten(0, 1)))
        with outside_autocast(self.device):
            memory = None if hx_cx is None else tuple(state.to(weight.dtype) for state in hx_cx)
            x, hx_cx = self.lstm(x.reshape(n, t, -1).to(weight.dtype), memory)
            logits = at_least_float32(self.head(x))
        k = self.coding.num_logits
        return logits[..., :k], logits[..., k:], hx_cx

    def loss(self, obs: Tensor, act: Tensor, rew: Tensor, end: Tensor, mask: Tensor) -> RewardEndLoss:
        """Cross-entropy of reward sign and termination over a sequence of frames.

        Args:
            obs: [N,L,C,H,W]; behind an episode's last step stands its final observation, then padding.
            act: [N,L,...]. rew: [N,L] float; only the sign counts to the default head. end: [N,L] bool.
            mask: [N,L] bool, False where a step is padding. The last step has no next frame and is not used.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        n, length = self._check_sequence(obs, act)
        if length < 2:
            raise ValueError(f"obs: expected at least 2 frames, got {length}")
        check_tensor("rew", rew, (n, length), self.act_emb.weight)
        check_mask("end", end, (n, length), self.device)
        check_mask("mask", mask, (n, length), self.device)
        logits_rew, logits_end, _ = self.predict(obs[:, :-1], act[:, :-1], obs[:, 1:])
        rew, target_end, mask = rew[:, :-1], end[:, :-1].long(), mask[:, :-1]

        cross_entropy_rew = self.coding.cross_entropy(logits_rew.flatten(0, 1), rew.flatten())
        cross_entropy_end = F.cross_entropy(logits_end.flatten(0, 1), target_end.flatten(), reduction="none")
        loss_rew, loss_end = (masked_mean(x, mask.flatten()) for x in (cross_entropy_rew, cross_entropy_end))
        return RewardEndLoss(
            loss_rew + loss_end,
            loss_rew.detach(),
            loss_end.detach(),
            confusion_matrix(self.coding.sign_logits(logits_rew), rew.sign().long() + 1, mask),
            confusion_matrix(logits_end, target_end, mask),
        )

    def _check_sequence(self, obs: Tensor, act: Tensor) -> tuple[int, int]:
        """Checks frames and actions, and returns their [N,T]."""
        frame = self.spec.frame
        shape = (None, None, frame.channels, frame.height, frame.width)
        check_tensor("obs", obs, shape, self.act_emb.weight)
        check_actions("act", act, tuple(obs.shape[:2]), self.device, self.spec.action)
        return obs.size(0), obs.size(1)


@torch.no_grad()
def confusion_matrix(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Counts of (true class, most likely class) where mask is True: [K,K] int64. Stays on the device."""
    k = logits.size(-1)
    cell = (target * k + logits.argmax(dim=-1)).flatten()
    counts = torch.zeros(k * k, dtype=torch.int64, device=logits.device)
    return counts.scatter_add_(0, cell, mask.flatten().long()).view(k, k)
