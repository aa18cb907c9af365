"""Charts of records as Vega-Lite specifications: drawn by a browser, or by vl-convert without one."""
