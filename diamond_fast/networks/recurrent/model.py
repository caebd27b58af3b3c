"""A world model's memory: what it makes of all frames and actions so far, and the rewards and ends it reads off that.

After EDELINE (arXiv 2502.00466): an encoder sees each frame once, its numbers and the action go through recurrent
layers, and their output e_t stands for everything up to frame and action t. The denoiser is told e_t in place of the
last actions, and two heads read reward and end of step t off it: there is no reward/end model of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.arguments import check_actions, check_mask, check_tensor
from diamond_fast.networks.actor_critic.config import ActorCriticConfig
from diamond_fast.networks.actor_critic.model import ActorCriticEncoder
from diamond_fast.networks.blocks import ActionEmbedding
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.networks.masking import masked_mean
from diamond_fast.networks.recurrent.attention import AttentionLayer
from diamond_fast.networks.recurrent.config import Memory, MemoryConfig
from diamond_fast.networks.recurrent.gru import GRULayer
from diamond_fast.networks.recurrent.layer import RecurrentLayer
from diamond_fast.networks.recurrent.mamba import MambaLayer
from diamond_fast.networks.reward_end.coding import coding_of
from diamond_fast.networks.reward_end.config import RewardHead
from diamond_fast.networks.reward_end.model import NUM_ENDS, RewardEndLoss, confusion_matrix
from diamond_fast.spec import Spec

LAYERS: dict[Memory, type[RecurrentLayer]] = {"mamba": MambaLayer, "gru": GRULayer, "attention": AttentionLayer}


class MemoryModel(nn.Module):
    """Frames and actions, one after the other -> e_t, and from it rewards and ends.

    Args:
        kind: of the recurrent layers.
        spec: the world.
        reward_head: how rewards are coded; None: there are no heads, as for recordings without rewards.
    """

    def __init__(self, cfg: MemoryConfig, kind: Memory, spec: Spec, reward_head: RewardHead | None = "sign"):
        super().__init__()
        self.spec = spec
        self.encoder = ActorCriticEncoder(ActorCriticConfig(channels=cfg.channels, down=cfg.down), spec.frame.channels)
        halvings = sum(cfg.down)
        pixels = (spec.frame.height >> halvings) * (spec.frame.width >> halvings)
        self.act_emb = ActionEmbedding(spec.action, cfg.action_width)
        self.linear = nn.Linear(cfg.channels[-1] * pixels + cfg.action_width, cfg.width)
        self.layers = nn.ModuleList(LAYERS[kind](cfg) for _ in range(cfg.layers))
        self.norm = nn.RMSNorm(cfg.width, eps=1e-5)
        self.coding = coding_of(reward_head or "sign")
        self.head: nn.Sequential | None = None
        self.harmony: nn.Parameter | None = None
        """Learned weights of the losses of rewards and of frames: each counts exp(-s) times. [2]"""
        if reward_head is not None:
            out = nn.Linear(cfg.width, self.coding.num_logits + NUM_ENDS, bias=False)
            self.harmony = nn.Parameter(torch.zeros(2))
            self.head = nn.Sequential(nn.Linear(cfg.width, cfg.width), nn.SiLU(), out)
            if not self.coding.signs:  # as in the reward/end model
                nn.init.zeros_(out.weight[: self.coding.num_logits])
        self._widths = [layer.state_width for layer in self._layers]
        self.state_width = sum(self._widths)

    @property
    def device(self) -> torch.device:
        return self.linear.weight.device

    @property
    def _layers(self) -> list[RecurrentLayer]:
        return list(self.layers)  # type: ignore[arg-type] # that is what they are

    def forward(self, obs: Tensor, act: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """A whole sequence, from an empty memory.

        Args:
            obs: [N,L,C,H,W] in [-1, 1]. act: [N,L,...]. real: [N,L] bool, False where a frame is padding: before an
                episode's first frame or behind its last. Such steps leave the memory as it is.

        Returns:
            e [N,L,E], and the memory behind the last step [N,S], without gradient; that step is no padding.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        n, length = obs.shape[:2]
        self._check(obs.flatten(0, 1), act.flatten(0, 1))
        check_mask("real", real, (n, length), self.device)
        x = self._inputs(obs.flatten(0, 1), act.flatten(0, 1)).unflatten(0, (n, length))
        states = []
        with outside_autocast(self.device):
            for layer in self._layers:
                x, state = layer(x, real)
                states.append(state)
            return self.norm(x), torch.cat(states, dim=1)

    def step(self, obs: Tensor, act: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: obs [N,C,H,W], act [N,...], memory [N,S] -> e [N,E], new memory. Raises as ``forward``."""
        self._check(obs, act)
        check_tensor("state", state, (len(obs), self.state_width), self.linear.weight)
        x, states = self._inputs(obs, act), []
        with outside_autocast(self.device):
            for layer, past in zip(self._layers, state.split(self._widths, dim=1), strict=True):
                x, new = layer.step(x, past)
                states.append(new)
            return self.norm(x), torch.cat(states, dim=1)

    def classify(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """e [...,E] -> reward logits [...,K] and end logits [...,2] of that step; without heads neither comes."""
        if self.head is None:
            zeros = e.new_zeros(*e.shape[:-1], 1)
            never = zeros - torch.inf
            return torch.cat((never, zeros, never), dim=-1), torch.cat((zeros, never), dim=-1)
        with outside_autocast(self.device):
            logits, k = self.head(e), self.coding.num_logits
        return logits[..., :k], logits[..., k:]

    def loss(self, obs: Tensor, act: Tensor, rew: Tensor, end: Tensor, mask: Tensor) -> RewardEndLoss:
        """The heads' cross-entropies over a sequence from an empty memory: ``RewardEndModel.loss``, but of all steps.

        Args:
            obs: [N,L,C,H,W]. act: [N,L,...]. rew: [N,L] float. end: [N,L] bool.
            mask: [N,L] bool, False where a step is padding.
        """
        return self.heads_loss(self(obs, act, mask)[0], rew, end, mask)

    def heads_loss(self, e: Tensor, rew: Tensor, end: Tensor, mask: Tensor) -> RewardEndLoss:
        """The same, of what the memory says already: e [N,L,E]."""
        logits_rew, logits_end = self.classify(e)
        of_rew = self.coding.cross_entropy(logits_rew.flatten(0, 1), rew.flatten())
        of_end = F.cross_entropy(logits_end.flatten(0, 1), end.flatten().long(), reduction="none")
        loss_rew, loss_end = (masked_mean(x, mask.flatten()) for x in (of_rew, of_end))
        return RewardEndLoss(
            loss_rew + loss_end,
            loss_rew,
            loss_end,
            confusion_matrix(self.coding.sign_logits(logits_rew), rew.sign().long() + 1, mask),
            confusion_matrix(logits_end, end.long(), mask),
        )

    def _inputs(self, obs: Tensor, act: Tensor) -> Tensor:
        """What the recurrent layers take: obs [M,C,H,W], act [M,...] -> [M,E]."""
        x, weight = self.encoder(obs).flatten(1), self.linear.weight
        with outside_autocast(self.device):
            return F.silu(self.linear(torch.cat((x.to(weight.dtype), self.act_emb(act)), dim=1)))

    def _check(self, obs: Tensor, act: Tensor) -> None:
        frame = self.spec.frame
        check_tensor("obs", obs, (None, frame.channels, frame.height, frame.width), self.linear.weight)
        check_actions("act", act, (len(obs),), self.device, self.spec.action)
