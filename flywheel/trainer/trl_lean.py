"""TRL's GRPO trainer, imported without vLLM.

TRL imports vLLM wherever it is installed, for a serving side that is not used here: seconds of start-up in every trainer
process, and vLLM's changes to torch's settings.
"""

from __future__ import annotations

from trl import import_utils

_is_vllm_available = import_utils.is_vllm_available
import_utils.is_vllm_available = lambda min_version=None: False
try:
    from trl import GRPOConfig, GRPOTrainer
finally:
    import_utils.is_vllm_available = _is_vllm_available

__all__ = ["GRPOConfig", "GRPOTrainer"]
