"""Networks that remove noise."""

from cohortex.models.registry import Entry, Expects

ENTRIES = [
    Entry(
        task="denoise",
        name="redcnn",
        paper=(
            "Chen H. et al., Low-dose CT with a residual encoder-decoder convolutional neural network, "
            "IEEE Trans. Med. Imaging 36(12), 2017, doi:10.1109/TMI.2017.2715284"
        ),
        factory="cohortex.models.denoise.redcnn:redcnn",
        expects=Expects(dimensions=2),
        options={"filters": 96},
        parameters=1_848_865,
    ),
]
