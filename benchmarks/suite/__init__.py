"""``make bench-suite``: the suite under load that does not wait for it, to and beyond saturation, and over time."""
