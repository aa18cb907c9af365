"""A leaderboard in every form that is read: terminal, Markdown, LaTeX, page, and what all forms share."""
