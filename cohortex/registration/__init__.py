"""Registration without learning: Gauss-Newton on a cubic B-spline over self-similarity features, and operations on displacements."""
