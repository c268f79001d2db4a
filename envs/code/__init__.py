"""The code environment: write a Python function from numbered steps and examples, run it, test it, submit it."""

from flywheel.envs.code.environment import CodeEnv

__all__ = ["CodeEnv"]
