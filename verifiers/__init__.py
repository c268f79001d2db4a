"""The verifiers that come with flywheel, importable as ``flywheel.verifiers``."""

if not __name__.startswith("flywheel."):
    raise ImportError("this folder is the package flywheel.verifiers; import it under that name")

TABLE = {
    "code": "flywheel.verifiers.code:CodeVerifier",
    "chemistry": "flywheel.verifiers.chemistry:ChemistryVerifier",
    "reasoning_gym": "flywheel.verifiers.reasoning_gym:ReasoningGymVerifier",
    "lean": "flywheel.verifiers.lean:LeanVerifier",
    "env_reward": "flywheel.verifiers.env_reward:EnvRewardVerifier",
}
