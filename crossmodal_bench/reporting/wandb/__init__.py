"""Weights & Biases: a run for each job: uploading, live logging and comparison.

No module here is called unless ``wandb`` is requested, and each imports it inside its functions: a bench with
``WANDB=off`` never loads it.
"""
