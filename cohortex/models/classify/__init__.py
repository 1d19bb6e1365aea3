"""Classification of subjects: radiomic features with a logistic regression, a small 3-D network, and their fusion."""

from cohortex.models.registry import Entry, Expects

ENTRIES = [
    Entry(
        task="classify",
        name="smallcnn3d",
        paper=(
            "Four blocks of the plain kind for whole volumes, after Cole J. H. et al., Predicting brain age with deep learning from raw "
            "imaging data, NeuroImage 163, 2017, doi:10.1016/j.neuroimage.2017.07.059; here with strides and global average pooling"
        ),
        factory="cohortex.models.classify.cnn3d:small_cnn3d",
        expects=Expects(dimensions=3, channels=5, values="robust z-score, then one-hot labels"),
        options={"channels": 5, "classes": 2, "widths": [8, 16, 32, 64], "dropout": 0.2},
    ),
]
