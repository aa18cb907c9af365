"""Running many jobs: plan, schedule, launchers, and ensembles of the trained models."""
