"""Tables of rows: reading, scaling, splits of groups."""
