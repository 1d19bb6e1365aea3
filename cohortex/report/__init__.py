"""The dataset report: records in, one self-contained page out."""
