"""A leaderboard in every format: terminal, Markdown, LaTeX, and what all formats share."""
