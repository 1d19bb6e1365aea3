"""How well: image quality, segmentation, registration, classification, with confidence intervals."""
