"""What a recipe may say: pydantic models, one a section, unknown keys rejected. Defaults are the published values.

Reading recipes (TOML, ``extends``, overrides) is `flywheel.recipe`; what the machine must have is `flywheel.preflight`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from flywheel.learning_config import LearningConfig as LearningConfig
from flywheel.sections import Section as Section

FROM_STAGE = "stage:"  # what ``policy.model`` begins with where an earlier stage made it


class RunConfig(Section):
    """``[run]``: what this run is and how long it goes on."""

    name: str = Field("run", description="Run name; the run folder is {dir}/{name} unless --run-dir says otherwise.")
    dir: Path = Field(Path("runs"), description="Folder of run folders.")
    seed: int = Field(0, ge=0, lt=2**32)
    steps: int = Field(100, ge=1, description="GRPO optimiser steps.")
    checkpoint_every: int = Field(10, ge=1, description="Steps between complete checkpoints.")
    keep_checkpoints: int = Field(2, ge=1)
    stop_when_solved: str | None = Field(None, description="A family of tasks: the run ends after the step in which one of them is solved.")
    deterministic: bool = Field(
        False,
        description="Give every completion a seed of its own, and (transformers) a forward pass of its own; slower.",
    )
    cache_dir: Path = Field(Path("~/.cache/flywheel"), description="Tiny models and cold starts are kept here.")

    @field_validator("name")
    @classmethod
    def _is_a_folders_name(cls, name: str) -> str:
        if name in ("", ".", "..") or "/" in name:
            raise ValueError(f"got {name!r}, expected a folder's name without a path; where it lies is run.dir, or --run-dir")
        return name


class TinyConfig(Section):
    """``[policy.tiny]``: the Qwen3-style model made on the spot for ``model = "tiny"``."""

    hidden_size: int = Field(192, ge=32)
    num_layers: int = Field(4, ge=1)
    num_heads: int = Field(6, ge=1)
    num_kv_heads: int = Field(3, ge=1)
    head_dim: Literal[32, 64] = 32
    intermediate_size: int = Field(512, ge=32)
    vocab_size: int = Field(512, ge=300, description="Byte-level BPE trained on the run's own demonstrations.")
    max_context: int = Field(1024, ge=64)

    @model_validator(mode="after")
    def _consistent(self) -> TinyConfig:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"policy.tiny.num_heads is {self.num_heads}, expected a multiple of num_kv_heads, which is {self.num_kv_heads}"
            )
        return self


class LoraSettings(Section):
    """``[policy.lora]``: adapter training through peft; rank 0 trains all weights (arXiv:2106.09685)."""

    rank: int = Field(0, ge=0)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class PolicyConfig(Section):
    """``[policy]``: the model that acts and learns."""

    model: str = Field("tiny", description='"tiny", a local path, or a hub id.')
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tool_format: str = Field(
        "auto", description="Tool-call syntax of the model family; auto reads it off the chat template, vllm:NAME is a parser of vLLM's."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="What the chat template is told, as { enable_thinking = false } for Qwen 3."
    )
    trust_remote_code: bool = False
    tiny: TinyConfig = TinyConfig()
    lora: LoraSettings = LoraSettings()


class ColdStartConfig(Section):
    """``[cold_start]``: supervised training on demonstrations before RL; 0 steps switches it off."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(10, ge=0)
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a token's target that is spread over all tokens (arXiv:1512.00567): leaves RL something to try.",
    )
    num_demonstrations: int = Field(4096, ge=1, description="Demonstrations made before training starts, over all environments.")
    cache: bool = True


class EngineConfig(Section):
    """``[engine]``: what serves the policy."""

    kind: str = Field("auto", description="auto, vllm, transformers, or a plug-in; auto takes vllm where it is installed.")
    url: str | None = Field(None, description="A vLLM server that already runs (started with VLLM_SERVER_DEV_MODE=1).")
    weight_sync: Literal["auto", "disk", "lora", "ipc", "nccl"] = "auto"
    max_concurrency: int = Field(64, ge=1, description="Requests in flight.")
    max_model_len: int | None = Field(None, ge=1, description="Longest context; the model's own where absent.")
    enforce_eager: bool = False
    start_timeout_s: float = Field(600.0, gt=0)
    swap_deadline_s: float = Field(60.0, gt=0, description="Wait this long for requests in flight before a weight swap aborts them.")
    max_restarts: int = Field(3, ge=0)
    probe_every: int = Field(1, ge=1, description="Optimiser steps between served-against-trainer logprob probes.")
    extra_args: list[str] = Field(default_factory=list, description="Passed to the vLLM server as they are.")


class PlacementConfig(Section):
    """``[placement]``: which GPUs train and which serve; without GPUs it says nothing.

    A GPU is named by its place among those that CUDA_VISIBLE_DEVICES shows, from 0. How many train is ``trainer.num_processes``, how
    many serve is tensor_parallel * data_parallel. What isn't said: the first ones train, the next ones serve where there are enough,
    and else both share (flywheel/inference/devices.py).
    """

    trainer_gpus: list[int] | None = Field(None, description="One a trainer process.")
    engine_gpus: list[int] | None = Field(None, description="May be, or overlap with, the trainer's.")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that hold one copy of the served weights together.")
    data_parallel: int = Field(1, ge=1, description="Such copies, behind one server.")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="The engine's share of each of its GPUs; absent: 0.9 (vLLM's), and 0.3 (TRL's) where it shares."
    )
    sleep_level: Literal[0, 1, 2] = Field(
        0,
        description="On shared GPUs, what the engine gives back while the trainer steps: 1 its KV cache (weights wait in RAM), "
        "2 its weights too, which every update brings anew. 0: nothing.",
    )
    gpu_memory_gb: float | None = Field(
        None, gt=0, description="Memory of each GPU, for --dry-run away from the machine (GB of 10^9 bytes)."
    )

    @property
    def num_engine_gpus(self) -> int:
        """How many GPUs serve."""
        return self.tensor_parallel * self.data_parallel

    @model_validator(mode="after")
    def _consistent(self) -> PlacementConfig:
        for key, gpus in (("trainer_gpus", self.trainer_gpus), ("engine_gpus", self.engine_gpus)):
            if gpus is not None and (not gpus or len(set(gpus)) < len(gpus) or min(gpus) < 0):
                raise ValueError(f"placement.{key} is {gpus}, expected different numbers from 0 on")
        if self.engine_gpus is not None and len(self.engine_gpus) != self.num_engine_gpus:
            raise ValueError(
                f"placement.engine_gpus names {len(self.engine_gpus)} GPUs, and tensor_parallel * data_parallel is {self.num_engine_gpus}"
            )
        if self.sleep_level and self.trainer_gpus and self.engine_gpus and not set(self.trainer_gpus) & set(self.engine_gpus):
            raise ValueError(f"placement.sleep_level is {self.sleep_level}, but trainer_gpus and engine_gpus share no GPU: set it to 0")
        return self


class RolloutConfig(Section):
    """``[rollout]``: how the policy acts."""

    groups_per_step: int = Field(16, ge=1, description="Tasks a step.")
    group_size: int = Field(8, ge=2, description="Attempts a task.")
    allocation: Literal["fixed", "sequential"] = Field(
        "fixed", description="sequential: attempts in stages, as many as the outcome is uncertain (flywheel/rollout/allocation.py)."
    )
    stage_size: int = Field(2, ge=2, description="sequential: attempts a stage.")
    stop_below: float = Field(0.25, ge=0, le=1, description="sequential: chance of another outcome below which a group ends.")
    backfill: float = Field(0.0, ge=0, description="fixed: most groups drawn in place of dead ones, as a share of groups_per_step.")
    max_turns: int = Field(8, ge=1)
    max_tokens_per_turn: int = Field(512, ge=1)
    max_tokens_per_episode: int = Field(2048, ge=1, description="Completion tokens over all turns.")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    env_threads: int = Field(16, ge=1, description="Environment steps and verdicts at once.")
    step_deadline_s: float = Field(60.0, gt=0, description="Longest environment step before the attempt is an infra_error.")
    max_retries: int = Field(2, ge=0, description="Fresh attempts after an infra_error, and further calls of a broken engine.")
    max_staleness: int = Field(
        1,
        ge=0,
        description="Steps whose rollouts may run ahead while the trainer steps, so the most steps that a token's policy may be behind "
        "the one that it trains (bounded staleness, arXiv:2505.24298). 0 is exactly synchronous.",
    )


class FamilyConfig(Section):
    """``[environments.NAME.families.FAMILY]``: a family's share and its knob ranges."""

    weight: float = Field(1.0, ge=0)
    knobs: dict[str, tuple[int, int]] = Field(default_factory=dict, description="Inclusive range of each knob.")

    @model_validator(mode="before")
    @classmethod
    def _widen(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("knobs"), dict):
            knobs = {k: (v, v) if type(v) is int else v for k, v in data["knobs"].items()}
            return {**data, "knobs": knobs}
        return data


class DatasetConfig(Section):
    """``[environments.NAME.dataset]``: rows of a Hugging Face data set as tasks (flywheel/tasks/datasets.py).

    In `prompt` and in the texts inside `payload`, ``{column}`` stands for a column's value, which must not be empty there; a text of
    the payload that is nothing else becomes the value itself, whatever its type. Without both, the rows are task records.
    """

    path: str = Field(description="A hub id, a folder (save_to_disk, or data files), or a .parquet, .json, .jsonl or .csv file.")
    name: str | None = Field(None, description="The data set's configuration.")
    split: str = "train"
    revision: str | None = None
    limit: int | None = Field(None, ge=1, description="Rows to take from the beginning.")
    prompt: str | None = None
    payload: dict[str, Any] | None = None


class EnvironmentConfig(Section):
    """``[environments.NAME]``: an environment that the run draws tasks from."""

    use: str | None = Field(None, description="Registered name or module:Class; the section's own name where absent.")
    weight: float = Field(1.0, ge=0, description="Share of tasks.")
    demonstration_weight: float | None = Field(None, gt=0, description="Share of the cold start's demonstrations; its weight where absent.")
    verifier: str | None = Field(None, description="Replaces the environment's own verifier.")
    verifier_kwargs: dict[str, Any] = Field(default_factory=dict, description="Passed to the verifier, such as partial_credit = true.")
    solved_threshold: float | None = Field(None, description="For an environment without a verifier: solved = return ≥ this.")
    families: dict[str, FamilyConfig] = Field(default_factory=dict, description="All families where absent.")
    tasks_file: Path | None = Field(None, description="Task records (JSON lines) instead of the generators.")
    dataset: DatasetConfig | None = Field(None, description="A Hugging Face data set instead of the generators.")
    tasks_format: str | None = Field(None, description="The shape of its lines or rows where they are not task records, such as humaneval.")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Passed to the environment's constructor.")

    @model_validator(mode="after")
    def _one_source(self) -> EnvironmentConfig:
        if self.tasks_file is not None and self.dataset is not None:
            raise ValueError("tasks_file and dataset are both given; keep one")
        return self


class TasksConfig(Section):
    """``[tasks]``: splits, and which tasks may train (flywheel/tasks/admission.py)."""

    heldout_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of tasks that never train. Where several split keys decide, some more are in neither split.",
    )
    decontaminate: list[Path] = Field(default_factory=list, description="Evaluation files (JSON lines) whose items must not train.")
    near_duplicate: float = Field(
        1.0, gt=0, le=1, description="Similarity of prompts (0.8 is usual) from which given or written tasks are one; 1 compares keys only."
    )
    avoid_repeats: bool = Field(False, description="Draw a task whose canonical key was drawn only where new ones are rare.")
    max_known: int = Field(100_000, ge=1, description="Tasks remembered for that; beyond it the oldest are forgotten.")


class CurriculumConfig(Section):
    """``[curriculum]``: which tasks training draws (flywheel/tasks/curriculum.py); evaluation keeps to the recipe's ranges."""

    rule: Literal["uniform", "fixed", "easy_to_hard", "frontier", "progress"] = Field(
        "uniform", description="frontier: Thompson sampling of P(solved)(1 - P(solved)); progress: of how fast P(solved) changes."
    )
    target: float = Field(0.5, gt=0, lt=1, description="frontier: the solve rate with the highest signal; 0.5 is p(1-p).")
    level: float = Field(0.5, ge=0, le=1, description="fixed: the knobs' place in their ranges.")
    ramp_steps: int = Field(100, ge=1, description="easy_to_hard: steps from the low ends of the ranges to the high ones.")
    skip_dead: float = Field(0.0, ge=0, lt=1, description="Tasks less likely than this to give a mixed group are drawn again; 0: none.")
    mutate_share: float = Field(0.0, ge=0, le=1, description="Share of tasks made of failed and solved ones (flywheel/tasks/breeding.py).")
    explore: float = Field(0.05, ge=0, le=1, description="Share of draws that are uniform whatever the rule says.")
    family_floor: float = Field(0.05, ge=0, le=1, description="What a family without signal keeps of its share.")
    discount: float = Field(0.9, gt=0, le=1, description="What a step's evidence is worth a step later.")
    correlation: float = Field(0.1, ge=0, le=1, description="How alike attempts at one task are; 0 counts them as independent.")
    saturated_above: float = Field(0.9, gt=0, le=1, description="A family solved more often than this everywhere has its ranges raised.")
    hopeless_below: float = Field(0.05, ge=0, lt=1, description="One solved less often than this everywhere has them lowered.")


class SandboxConfig(Section):
    """``[sandbox]``: where model text runs."""

    backend: str = Field(
        "bubblewrap", description="bubblewrap, docker, a plug-in, or unsafe (no isolation at all; for machines that offer none)."
    )
    image: str = Field("flywheel-sandbox-python", description="What a docker sandbox is made from; see docker/README.md.")
    runtime: str | None = Field(None, description='The docker daemon\'s runtime, "runsc" for gVisor; its default where absent.')
    workers: int = Field(2, ge=1, description="Warm workers.")
    memory_mb: int = Field(512, ge=64)
    disk_mb: int = Field(64, ge=1, description="Size of a sandbox's one writable folder, which lies in memory.")
    cpu_s: float = Field(10.0, gt=0)
    wall_s: float = Field(30.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> SandboxConfig:
        if self.runtime is not None and self.backend in ("bubblewrap", "unsafe"):
            raise ValueError(f"sandbox.runtime is {self.runtime!r}, which is the docker backend's, and sandbox.backend is {self.backend!r}")
        return self


class StoreConfig(Section):
    """``[store]``: the experience store."""

    shard_mb: int = Field(64, ge=1, description="Settled records of this size, before compression, become a Parquet shard at a checkpoint.")
    max_gb: float = Field(
        0.0, ge=0, description="Size of all shards above which the oldest attempts' and batches' are dropped; 0: no limit."
    )


class TrainerConfig(Section):
    """``[trainer]``: GRPO (arXiv:2402.03300) with DAPO's token-level loss and asymmetric clipping (arXiv:2503.14476) as options."""

    learning_rate: float = Field(1e-6, gt=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    loss_type: Literal["dapo", "dr_grpo"] = "dapo"
    scale_rewards: Literal["group", "none"] = Field("group", description="Divide advantages by the group's std (none: Dr. GRPO).")
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0, description="0.28 is DAPO's clip-higher.")
    kl_beta: float = Field(0.0, ge=0)
    token_budget: int | None = Field(None, ge=1, description="dr_grpo: the constant; absent, the most tokens a step could sample.")
    importance_cap: float = Field(2.0, ge=1, description="Per-token truncation of trainer/behaviour ratios.")
    ce_weight: float = Field(
        1.0, ge=0, le=1, description="λ of the cross-entropy rows, which so never weigh more than the on-policy part of the loss."
    )
    ce_schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="How λ falls from ce_weight to 0 over run.steps.")
    unlikeliness: float = Field(
        0.0, ge=0, le=0.5, description="β of the unlikeliness reward (arXiv:2506.02355, 0.25 there): rare solved attempts count more."
    )
    micro_batch_size: int = Field(32, ge=1, description="Most rows a forward pass; the rest is gradient accumulation.")
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens a forward pass, of which at most a tenth is padding; a longer row goes alone. Absent: no limit.",
    )
    num_processes: int = Field(1, ge=1, description="Trainer ranks, one a GPU.")
    sharding: Literal["none", "fsdp2"] = Field(
        "none",
        description="fsdp2: weights, gradients and optimiser are spread over the ranks (arXiv:2304.11277); none: each holds them all.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bf16: Literal[True, False, "auto"] = "auto"
    gradient_checkpointing: bool = False
    shuffle_advantages: bool = Field(False, description="Control: permute advantages within groups; must not improve the policy.")


class EvaluationConfig(Section):
    """``[evaluation]``: held-out evaluation before, during and after."""

    tasks_per_environment: int = Field(100, ge=1)
    samples_per_task: int = Field(1, ge=1)
    every: int = Field(0, ge=0, description="Steps between evaluations; 0: only before and after.")
    temperature: float = Field(1.0, gt=0)
    confidence: float = Field(0.95, gt=0, lt=1)


class MonitorConfig(Section):
    """``[monitor]``: Weights & Biases and the run folder."""

    wandb: Literal["auto", "online", "offline", "disabled"] = Field("auto", description="auto: online with a key, else offline.")
    project: str = "flywheel"
    entity: str | None = None
    table_every: int = Field(10, ge=1, description="Steps between tables of sample trajectories.")
    table_rows: int = Field(16, ge=0)


class DistillConfig(Section):
    """``[distill]``: what a policy's best attempts are collected from, and how they teach (flywheel/distill); for `StageConfig`."""

    num_tasks: int = Field(256, ge=1, description="collect: most different training tasks that are attempted.")
    attempts: int = Field(8, ge=1, description="collect: attempts a task.")
    keep: int = Field(2, ge=1, description="collect: most solved attempts kept a task: the shortest, then those least like the kept ones.")
    sets: list[str] = Field(
        ["sft-messages.parquet", "dpo-messages.parquet"],
        description="collect: training sets written to the stage's folder sets/ (flywheel.export): {sft,dpo}-{messages,tokens}, and "
        ".jsonl, .parquet or nothing for a Hugging Face data set.",
    )
    anchor_share: float = Field(
        0.0, ge=0, lt=1, description="distill: share of the rows that are reference solutions, so that the collected ones don't take over."
    )


class StageConfig(Section):
    """``[[stages]]``: one stage of a pipeline (flywheel/pipeline); every further key is a section that differs from the recipe's.

    ``policy.model = "stage:NAME"`` starts from what an earlier stage made. A stage with a ``policy.model`` of its own has no cold start
    unless it says ``cold_start.steps``; in a distill stage, these are the steps that it trains.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Its folder in the run's.")
    kind: Literal["train", "collect", "distill"] = Field(
        description="train: GRPO. collect: attempts, of which the verified best are kept. distill: supervised training on what collect "
        "stages kept, or on reference solutions alone."
    )
    sources: list[str] = Field(default_factory=list, description="distill: collect stages.")
    only: list[str] = Field(default_factory=list, description="ENV or ENV/FAMILY: the environments and families of this stage; else all.")
    changes: dict[str, Any] = Field(default_factory=dict, exclude=True, description="The further keys.")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = {name: value for name, value in data.items() if name in cls.model_fields}
        return {**own, "changes": {name: value for name, value in data.items() if name not in own}}

    @model_serializer(mode="wrap")
    def _spread(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**dump(self), **self.changes}


class Recipe(Section):
    """A whole recipe."""

    run: RunConfig = RunConfig()
    policy: PolicyConfig = PolicyConfig()
    cold_start: ColdStartConfig = ColdStartConfig()
    engine: EngineConfig = EngineConfig()
    placement: PlacementConfig = PlacementConfig()
    rollout: RolloutConfig = RolloutConfig()
    environments: dict[str, EnvironmentConfig] = Field(min_length=1)
    tasks: TasksConfig = TasksConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    learning: LearningConfig = LearningConfig()
    sandbox: SandboxConfig = SandboxConfig()
    store: StoreConfig = StoreConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    monitor: MonitorConfig = MonitorConfig()
    distill: DistillConfig = DistillConfig()
    stages: list[StageConfig] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.rollout.max_tokens_per_turn > self.rollout.max_tokens_per_episode:
            raise ValueError("rollout.max_tokens_per_turn is larger than rollout.max_tokens_per_episode")
        if self.run.deterministic and self.rollout.max_staleness > 0:
            raise ValueError(
                f"run.deterministic is true but rollout.max_staleness is {self.rollout.max_staleness}: which weights an attempt "
                "meets then depends on timing; set rollout.max_staleness = 0"
            )
        if self.learning.is_supervised and self.trainer.ce_weight == 0:
            raise ValueError("learning: supervised rows are asked for, but trainer.ce_weight is 0: they would train nothing")
        if self.trainer.shuffle_advantages and (self.learning.is_on or self.trainer.unlikeliness > 0):
            raise ValueError(
                "trainer.shuffle_advantages is the control that must not improve the policy, and [learning] or trainer.unlikeliness would: "
                "switch them off"
            )
        if not any(env.weight > 0 for env in self.environments.values()):
            raise ValueError("environments: at least one needs a weight above 0")
        if self.rollout.allocation == "sequential" and (self.trainer.loss_type, self.trainer.scale_rewards) != ("dr_grpo", "none"):
            raise ValueError(
                "rollout.allocation is 'sequential', whose gradient is unbiased only with a constant normaliser and undivided advantages: "
                "set trainer.loss_type = 'dr_grpo' and trainer.scale_rewards = 'none'"
            )
        if self.rollout.allocation == "sequential" and self.rollout.backfill > 0:
            raise ValueError("rollout.backfill replaces groups of allocation 'fixed', but rollout.allocation is 'sequential': keep one")
        if self.curriculum.hopeless_below >= self.curriculum.saturated_above:
            raise ValueError("curriculum.hopeless_below has to be less than curriculum.saturated_above")
        if self.engine.url is not None and self.engine.kind == "transformers":
            raise ValueError("engine.url names a vLLM server, but engine.kind is 'transformers': leave one of them out")
        longest = self.policy.tiny.max_context
        if self.policy.model == "tiny" and self.engine.max_model_len is not None and self.engine.max_model_len > longest:
            raise ValueError(f"engine.max_model_len is {self.engine.max_model_len}, more than policy.tiny.max_context, which is {longest}")
        if self.engine.weight_sync == "lora" and self.policy.lora.rank == 0:
            raise ValueError("engine.weight_sync is 'lora' but policy.lora.rank is 0: no adapter is trained")
        for problem in self._placement_problems():
            raise ValueError(problem)
        return self

    def _placement_problems(self) -> Iterator[str]:
        placement, num_processes = self.placement, self.trainer.num_processes
        level = placement.sleep_level
        if placement.trainer_gpus is not None and len(placement.trainer_gpus) != num_processes:
            yield f"placement.trainer_gpus names {len(placement.trainer_gpus)} GPUs, and trainer.num_processes is {num_processes}: one each"
        if self.trainer.sharding != "none" and num_processes == 1:
            yield f"trainer.sharding is {self.trainer.sharding!r} but trainer.num_processes is 1: there is nobody to share with"
        if self.trainer.sharding != "none" and self.policy.lora.rank > 0:
            yield "trainer.sharding is 'fsdp2' but policy.lora.rank is above 0: adapters train with whole bases; say 'none'"
        if level and self.rollout.max_staleness > 0:
            yield (
                f"placement.sleep_level is {level} but rollout.max_staleness is {self.rollout.max_staleness}: an engine that sleeps "
                "while the trainer steps can't run ahead; set rollout.max_staleness = 0"
            )
        if level and (self.engine.url is not None or self.engine.kind not in ("auto", "vllm")):
            yield f"placement.sleep_level is {level}, which needs a vLLM server of the run's own: set it to 0, or take engine.kind = 'vllm'"
        if level and self.engine.weight_sync == "nccl":
            yield f"placement.sleep_level is {level}, on shared GPUs, but engine.weight_sync is 'nccl', on separate ones: keep one"
        if level == 2 and self.policy.lora.rank > 0 and self.engine.weight_sync != "disk":
            yield "placement.sleep_level is 2 but only an adapter is sent after it, not the base that was let go of: set it to 1"
