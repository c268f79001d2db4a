"""What a recipe may say of trajectory learning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flywheel.sections import Section


class InstructionConfig(Section):
    """``[learning.instructions]``: who words relabelled tasks that a model may word (flywheel/hindsight/instructions.py)."""

    by: Literal["template", "policy", "endpoint"] = Field(
        "template", description="The relabeller's template, the run's own policy, or a model behind an OpenAI-compatible endpoint."
    )
    url: str = Field("", description="The endpoint's base address, such as http://127.0.0.1:8000/v1.")
    model: str = Field("", description="The model's name there.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the endpoint's key, if it needs one.")
    max_tokens: int = Field(512, ge=1, description="Longest reply.")
    temperature: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> InstructionConfig:
        if self.by == "endpoint" and not (self.url and self.model):
            raise ValueError(
                "learning.instructions.by is 'endpoint', which needs learning.instructions.url and learning.instructions.model"
            )
        if self.by != "endpoint" and (self.url or self.model):
            raise ValueError(f"learning.instructions names an endpoint, but learning.instructions.by is {self.by!r}: say 'endpoint'")
        return self


class LearningConfig(Section):
    """``[learning]``: what trains beside the on-policy groups (flywheel/hindsight). All of it is off by default.

    Shares are of the tokens that the step's attempts sampled, in groups with contrast or without: a step that failed as a whole is the
    one that hindsight is for. λ, the weight of all supervised rows together, is ``trainer.ce_weight``.
    """

    hindsight_share: float = Field(0.0, ge=0, le=1, description="Most tokens of failures relabelled as what they did solve.")
    instructions: InstructionConfig = InstructionConfig()
    repair_share: float = Field(0.0, ge=0, le=1, description="Most tokens of failures followed by their repair.")
    distill_share: float = Field(0.0, ge=0, le=1, description="Most tokens of the policy's own solved attempts, by imitation.")
    anchor_floor: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Least share of the supervised tokens that reference solutions have, so that the policy's own don't take over.",
    )
    min_distinct: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of distinct answers among a step's solved ones below which the policy counts as collapsing: that step's "
        "distill_share and hindsight_share are halved and its anchor_floor is doubled. 0: never.",
    )
    max_similarity: float = Field(1.0, gt=0, le=1, description="The same for the similarity of solved answers above this; 1: never.")
    min_entropy: float = Field(0.0, ge=0, description="The same for the policy's entropy, in nats a token, below this; 0: never.")
    trivial_above: float = Field(
        0.8, gt=0, le=1, description="Relabelled tasks that are predicted to be solved more often than this are dropped."
    )
    max_uses: int = Field(2, ge=1, description="Steps that one supervised row may train in.")
    max_age: int = Field(50, ge=1, description="Steps after which a supervised row that waits is dropped.")
    pool_size: int = Field(4096, ge=1, description="Supervised rows that wait; beyond it the oldest are dropped.")
    retry_size: int = Field(0, ge=0, description="All-failed tasks kept to be tried again; 0: none.")
    retry_share: float = Field(0.25, gt=0, le=1, description="Most groups of a step that are such tasks.")
    retry_above: float = Field(0.05, ge=0, lt=1, description="Predicted solve rate that such a task needs.")
    replay_staleness: int = Field(
        20,
        ge=0,
        description="With retry_size above 0: most steps that an own success may be old to join an all-failed group of its task; 0: none "
        "joins.",
    )

    @property
    def is_supervised(self) -> bool:
        """Whether cross-entropy rows train."""
        return self.hindsight_share + self.repair_share + self.distill_share > 0

    @property
    def is_on(self) -> bool:
        """Whether anything but the on-policy groups trains."""
        return self.is_supervised or self.retry_size > 0

    @model_validator(mode="after")
    def _consistent(self) -> LearningConfig:
        needing = {
            "anchor_floor": self.anchor_floor > 0,
            "min_distinct": self.min_distinct > 0,
            "max_similarity": self.max_similarity < 1,
            "min_entropy": self.min_entropy > 0,
        }
        if self.instructions.by != "template" and self.hindsight_share == 0:
            raise ValueError("learning.instructions words relabelled tasks, and there are none: raise learning.hindsight_share")
        if not self.is_supervised and any(needing.values()):
            named = ", ".join(f"learning.{name}" for name, is_set in needing.items() if is_set)
            raise ValueError(
                f"{named} is set, but no supervised row trains that it could limit: raise learning.distill_share, hindsight_share or "
                "repair_share"
            )
        return self
