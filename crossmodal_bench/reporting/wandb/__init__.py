"""Weights & Biases: a run for each job, sent, followed and compared there.

No module here is called without ``wandb`` being asked for, and each imports it inside its functions: a bench
with ``WANDB=off`` never loads it.
"""
