"""From records to what people read: leaderboards, comparisons, figures, pages and W&B runs."""
