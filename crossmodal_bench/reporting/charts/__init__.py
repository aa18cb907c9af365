"""Charts of records as Vega-Lite specifications: a browser draws them, and vl-convert without one."""
