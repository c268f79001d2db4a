"""The Lean environment: prove a theorem, tactic by tactic or all at once."""

from flywheel.envs.lean.environment import LeanEnv, LeanProofEnv

__all__ = ["LeanEnv", "LeanProofEnv"]
