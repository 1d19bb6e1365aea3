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
    Entry(
        task="superresolve",
        name="subslice",
        paper=(
            "Cohortex: cosine series within slices, found by convolutions in both planes across the slices, after Peng C. et al., SAINT: "
            "Spatially Aware Interpolation NeTwork for medical slice synthesis, CVPR, 2020, doi:10.1109/CVPR42600.2020.00777"
        ),
        factory="cohortex.models.superresolve.subslice:subslice",
        expects=Expects(dimensions=3, grid="slices", any_factor=True),
        options={"channels": 32, "blocks": 5, "terms": 5},
        training={
            "objective": "squared_error",
            "patch": 14,
            "slices": 8,
            "around": 3,
            "batch": 4,
            "rate": 1e-3,
            "factors": [1.5, 6.0],
            "even": True,
        },
    ),
]
