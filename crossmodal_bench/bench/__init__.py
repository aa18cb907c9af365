"""Many jobs, one table: plan, run, record, report."""
