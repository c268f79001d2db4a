"""How much of a GPU a training step takes at its peak, and what each further thousand tokens of a micro-batch costs."""

from __future__ import annotations

import torch

_MB, _GB = 10**6, 10**9


class PeakMemory:
    """Watches torch's allocator from here on; on a CPU there is nothing to watch.

    Args:
        device: The rank's device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)

    def figures(self, num_tokens: int) -> dict[str, float]:
        """Return the peak, and what it is above the beginning for each 1,000 tokens of the largest micro-batch (gradients included).

        Args:
            num_tokens: Tokens of that micro-batch; without any there is only the peak.
        """
        if self._device.type != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated(self._device)
        figures = {"peak_memory_gb": peak / _GB}
        if num_tokens:
            figures["peak_memory_mb_per_1k_tokens"] = (peak - self._before) / _MB / (num_tokens / 1000)
        return figures
