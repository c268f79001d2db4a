"""Looks back at a run: ``python -m flywheel.audit RUN`` judges again what trained and looks for leaks and reward hacks."""
