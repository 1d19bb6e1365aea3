"""Files spoiled by chance: whatever comes, a reader gives an image or a sentence."""
