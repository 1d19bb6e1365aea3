"""The bake-off: named systems of a stage trained with one budget on the cohort, and compared on subjects that none of them saw."""
