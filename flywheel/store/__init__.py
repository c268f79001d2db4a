"""The experience store: a run's journal in SQLite, its settled part in Parquet, and the ways to ask it.

`journal` writes, `reader` reads, `lineage` says what made what, `tiers` what is worth imitating, `sql` answers in SQL;
``python -m flywheel.store RUN`` is the command. Nobody but the run's own process opens a `Journal`.
"""
