"""Pipelines: a recipe's ``[[stages]]``, one after another, each in a run folder of its own inside the pipeline's.

`plan` says what the stages are, `marker` which of them are finished, `run` performs them.
"""
