"""Networks that add resolution."""

from cohortex.models.registry import Entry, Expects

ENTRIES = [
    Entry(
        task="superresolve",
        name="srcnn3d",
        paper=(
            "Pham C.-H. et al., Brain MRI super-resolution using deep 3D convolutional networks, "
            "IEEE Int. Symp. Biomed. Imaging (ISBI), 2017, doi:10.1109/ISBI.2017.7950500"
        ),
        factory="cohortex.models.superresolve.srcnn3d:srcnn3d",
        expects=Expects(dimensions=3),
        options={"residual": False},
        parameters=52_801,
    ),
]
