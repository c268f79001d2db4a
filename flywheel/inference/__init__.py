"""Serving the policy: engines, the policy's chat format, and how new weights reach the engine.

An engine is constructed as ``Engine(recipe, model_dir, log_dir, weight_sync)`` (see `flywheel.inference.select`) and fits
`flywheel.contracts.Engine`. Engines are found by name here, by entry point (``flywheel.inference``), or as ``module:Class``.
"""

TABLE = {
    "vllm": "flywheel.inference.vllm_engine:VllmEngine",
    "transformers": "flywheel.inference.transformers_engine:TransformersEngine",
}
