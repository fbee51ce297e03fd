"""Config files as nodes with their places: parsed, merged, interpolated, built, dumped."""
