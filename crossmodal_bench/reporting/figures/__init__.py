"""Figures and qualitative panels, drawn from records and from what models generate."""
