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
        # As Dong et al. (2014) found for the two-dimensional network: the last layer learns ten times slower.
        slower={"reconstruction": 0.1},
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
    Entry(
        task="superresolve",
        name="saint",
        paper=(
            "Peng C. et al., SAINT: Spatially Aware Interpolation NeTwork for medical slice synthesis, "
            "IEEE/CVF Conf. Computer Vision and Pattern Recognition (CVPR), 2020, doi:10.1109/CVPR42600.2020.00777"
        ),
        factory="cohortex.models.superresolve.saint:saint",
        expects=Expects(dimensions=3, grid="slices", any_factor=True),
        options={"preset": "compact"},
        training={"objective": "absolute_error", "factors": [2.0, 6.0], "patch": 24, "batch": 4, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="cardiac_sr",
        paper=(
            "Oktay O. et al., Multi-input cardiac image super-resolution using convolutional neural networks, "
            "Medical Image Computing and Computer-Assisted Intervention (MICCAI), 2016, doi:10.1007/978-3-319-46726-9_29"
        ),
        factory="cohortex.models.superresolve.cardiac_sr:cardiac_sr",
        expects=Expects(dimensions=3, grid="slices"),
        options={"factor": 5, "width": 32, "inputs": ("image",)},
        training={"objective": "smooth_absolute_error", "patch": 20, "batch": 4, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="context_sr",
        paper=(
            "McDonagh S. et al., Context-sensitive super-resolution for fast fetal magnetic resonance imaging, "
            "MICCAI Workshop on Reconstruction and Analysis of Moving Body Organs (RAMBO), 2017, doi:10.1007/978-3-319-67564-0_12"
        ),
        factory="cohortex.models.superresolve.context_sr:context_sr",
        expects=Expects(dimensions=3),
        options={"width": 24, "context_width": 8, "blocks": 3, "context": True, "inputs": ("image",)},
        training={"objective": "absolute_error", "patch": 24, "batch": 2, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="hybrid_sr",
        paper=(
            "Zheng Y. et al., A hybrid convolutional neural network for super-resolution reconstruction of MR images, "
            "Medical Physics 47(7), 2020, doi:10.1002/mp.14152"
        ),
        factory="cohortex.models.superresolve.hybrid_sr:hybrid_sr",
        expects=Expects(dimensions=3, grid="slices"),
        options={"factor": 2, "width": 32, "growth": 16, "blocks": 3, "branches": 3},
        training={"objective": "absolute_error", "patch": 24, "batch": 4, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="csn",
        paper=(
            "Zhao X. et al., Channel splitting network for single MR image super-resolution, "
            "IEEE Trans. Image Processing 28(11), 2019, doi:10.1109/TIP.2019.2921882"
        ),
        factory="cohortex.models.superresolve.csn:csn",
        expects=Expects(dimensions=3, grid="slices"),
        options={"factor": 2, "width": 48, "blocks": 3, "units": 2, "split": True, "planes": False},
        training={"objective": "absolute_error", "patch": 24, "batch": 4, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="bayesian_espcn",
        paper=(
            "Tanno R. et al., Bayesian image quality transfer with CNNs: exploring uncertainty in dMRI super-resolution, "
            "Medical Image Computing and Computer-Assisted Intervention (MICCAI), 2017, doi:10.1007/978-3-319-66182-7_70"
        ),
        factory="cohortex.models.superresolve.bayesian_espcn:bayesian_espcn",
        expects=Expects(dimensions=3, grid="slices"),
        options={"channels": 1, "factor": 2, "in_plane": 1, "variance": True, "dropout": True, "residual": True},
        training={"objective": "heteroscedastic", "patch": 24, "batch": 8, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="mglrl",
        paper=(
            "Shi J. et al., Super-resolution reconstruction of MR image with a novel residual learning network algorithm, "
            "Physics in Medicine and Biology 63(8), 2018, doi:10.1088/1361-6560/aab9e9"
        ),
        factory="cohortex.models.superresolve.mglrl:mglrl",
        expects=Expects(dimensions=3),
        options={"width": 8, "blocks": 2, "local_residual": True, "global_residual": True},
        training={"objective": "squared_error", "patch": 24, "batch": 2, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="progressive_sr",
        paper=(
            "Lyu Q. et al., Multi-contrast super-resolution MRI through a progressive network, "
            "IEEE Trans. Med. Imaging 39(9), 2020, doi:10.1109/TMI.2020.2974858"
        ),
        factory="cohortex.models.superresolve.progressive_sr:progressive_sr",
        expects=Expects(dimensions=3, channels=2, inputs=("image", "reference")),
        options={"width": 24, "blocks": 2, "depth": 2, "inputs": ("image", "reference")},
        training={"objective": "progressive_gan_features", "patch": 24, "batch": 2, "rate": 1e-3},
    ),
    Entry(
        task="superresolve",
        name="slab_sr",
        paper=(
            "Slice information integration as described in: Recent advancements and future prospects in active deep learning for medical "
            "image segmentation and classification, IEEE Access 11, 2023, doi:10.1109/ACCESS.2023.3313977"
        ),
        factory="cohortex.models.superresolve.slab_sr:slab_sr",
        expects=Expects(dimensions=3),
        options={"width": 24, "layers": 3, "slab": 9, "fusion": True},
        training={"objective": "absolute_error", "patch": 24, "batch": 2, "rate": 1e-3},
    ),
]
