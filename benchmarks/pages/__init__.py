"""What becomes of measured figures: one JSON document, tables, plots, and the README's section on speed."""
