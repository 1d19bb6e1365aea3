"""Classification of subjects: radiomic features with a logistic regression, networks, and their fusion."""

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
    Entry(
        task="classify",
        name="motioncnn2d",
        paper=(
            "Small plain network for the recipe of Oksuz I. et al., Automatic CNN-based detection of cardiac MR motion artefacts using "
            "k-space data augmentation and curriculum learning, Medical Image Analysis 55, 2019, doi:10.1016/j.media.2019.04.009"
        ),
        factory="cohortex.models.classify.motioncnn2d:motion_cnn2d",
        expects=Expects(dimensions=2, channels=1, values="magnitude slice, y the phase encoding, percentile 99.5 at 1, square root"),
        options={"channels": 1, "widths": [8, 16, 24, 32], "dropout": 0.1},
    ),
    Entry(
        task="classify",
        name="smallresnet2d",
        paper=(
            "Small network of pre-activated residual blocks for small pictures, after He K. et al., Identity mappings in deep residual "
            "networks, ECCV 2016, doi:10.1007/978-3-319-46493-0_38; here with mean and maximum pooled"
        ),
        factory="cohortex.models.classify.cnn2d:small_resnet2d",
        expects=Expects(dimensions=2, channels=1, values="zero mean, unit deviation"),
        options={"channels": 1, "classes": 2, "widths": [16, 32, 64, 128], "blocks": 1, "dropout": 0.2},
    ),
]
