"""The report of a demo run: what was measured (`model`), drawn (`charts`) and written as one page and one JSON (`page`)."""
