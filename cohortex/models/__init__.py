"""Networks by name (`registry`) and model folders (`folder`); importing this package imports no torch."""
