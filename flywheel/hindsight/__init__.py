"""Trajectory learning: what attempts teach beside the contrast of their group, all of it verified again before it trains."""
