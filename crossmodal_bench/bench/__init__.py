"""Many jobs: the plan, the schedule, where jobs run, and ensembles of what they trained."""
