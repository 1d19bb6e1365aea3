"""The simulated demo cohort: what it consists of, its anatomy, its scans."""
