"""What a run tells of the people in a cohort: pseudonyms, names of files, days; all of it from one key that the user keeps.

- `keys`: the key and what is derived from it.
- `conceal`: the cohort's rows as the rest of the run sees them, and the private tables beside them.
- `days`: days of acquisition, shifted.
- `lookup`: the way back, for the owner.
"""
