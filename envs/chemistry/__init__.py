"""Propose molecules under constraints."""

from flywheel.envs.chemistry.environment import ChemistryEnv

__all__ = ["ChemistryEnv"]
