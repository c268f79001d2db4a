"""The policy acts: episodes, and groups of episodes with their verdicts."""
