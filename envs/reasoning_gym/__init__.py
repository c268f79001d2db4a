"""The reasoning-gym environment: every data set of the package reasoning-gym, its curriculum's attributes as knobs."""

from flywheel.envs.reasoning_gym.environment import ReasoningGymEnv

__all__ = ["ReasoningGymEnv"]
