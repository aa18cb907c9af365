"""From records to reports: leaderboards, comparisons, figures, pages and W&B runs."""
