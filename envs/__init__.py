"""The environments that come with flywheel, importable as ``flywheel.envs``."""

if not __name__.startswith("flywheel."):
    raise ImportError("this folder is the package flywheel.envs; import it under that name")

TABLE = {
    "code": "flywheel.envs.code:CodeEnv",
    "chemistry": "flywheel.envs.chemistry:ChemistryEnv",
    "reasoning_gym": "flywheel.envs.reasoning_gym:ReasoningGymEnv",
    "lean": "flywheel.envs.lean:LeanEnv",
}
