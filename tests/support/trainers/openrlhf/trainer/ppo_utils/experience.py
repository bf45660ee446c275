"""What a card uses of ``openrlhf/trainer/ppo_utils/experience.py``, checked against OpenRLHF 0.11.2."""

from dataclasses import dataclass, field

import torch


@dataclass
class Experience:
    sequences: torch.Tensor = None
    attention_mask: torch.LongTensor = None
    action_mask: torch.BoolTensor = None
    rollout_log_probs: torch.Tensor = None
    rewards: torch.Tensor = None
    scores: torch.Tensor = None
    response_length: torch.Tensor = None
    truncated: torch.Tensor = None
    total_length: torch.Tensor = None
    prompts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    info: dict = field(default_factory=dict)
