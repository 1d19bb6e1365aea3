"""Networks that find things in images and put a box around each (`cohortex.models.recognize.boxes`)."""

from cohortex.models.registry import Entry

ENTRIES: list[Entry] = []
