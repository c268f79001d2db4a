"""The trainer: policies, the supervised cold start, GRPO with cross-entropy rows, checkpoints and weight publication.

torch lives here. Import the modules by name (`flywheel.trainer.loop`, …); importing this package alone loads nothing.
"""
