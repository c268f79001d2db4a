"""Distillation between policies: a policy's verified best attempts are collected (`collect`), and teach another one (`teach`)."""
