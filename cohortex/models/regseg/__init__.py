"""Networks and classical methods that bring images of a subject together; the networks that label them are those of `segment`."""

from cohortex.models.registry import Entry, Expects

VOXELMORPH = (
    "Balakrishnan G. et al., VoxelMorph: a learning framework for deformable medical image registration, "
    "IEEE Trans. Med. Imaging 38(8), 2019, doi:10.1109/TMI.2019.2897538"
)
DIFFEOMORPHIC = (
    "Dalca A. V. et al., Unsupervised learning of probabilistic diffeomorphic registration for images and surfaces, "
    "Med. Image Anal. 57, 2019, doi:10.1016/j.media.2019.07.006"
)
FAIM = "Kuang D. and Schmah T., FAIM: a ConvNet method for unsupervised 3D medical image registration, MLMI 2019, arXiv:1811.09243"
ICNET = "Zhang J., Inverse-consistent deep networks for unsupervised deformable image registration, 2018, arXiv:1809.03443"
ADMIR = (
    "Tang K. et al., ADMIR: affine and deformable medical image registration for drug-addicted brain images, "
    "IEEE Access 8, 2020, doi:10.1109/ACCESS.2020.2986829"
)
TRANSMORPH = (
    "Chen J. et al., TransMorph: transformer for unsupervised medical image registration, "
    "Med. Image Anal. 82, 2022, doi:10.1016/j.media.2022.102615"
)
CLASSICAL = (
    "Yang X. et al., Quicksilver: fast predictive image registration - a deep learning approach, "
    "NeuroImage 158, 2017, doi:10.1016/j.neuroimage.2017.07.008"
)
SIMULATED = (
    "Sokooti H. et al., Nonrigid image registration using multi-scale 3D convolutional neural networks, "
    "MICCAI 2017, doi:10.1007/978-3-319-66182-7_27"
)

PAIR = Expects(dimensions=3, channels=2)
PLAIN = {
    "encoder": [16, 32, 32, 32],
    "decoder": [32, 32, 32, 32],
    "final": [32, 16, 16],
    "half_resolution": False,
    "integration_steps": 0,
}
HALVES = PLAIN | {"half_resolution": True, "integration_steps": 7}
"""The flow is a velocity at half the resolution."""
UNET = "cohortex.models.regseg.voxelmorph:voxelmorph"

ENTRIES = [
    Entry("regseg", "voxelmorph", VOXELMORPH, UNET, PAIR, PLAIN, parameters=301_411, training={"objective": {"name": "images_alike"}}),
    Entry(
        "regseg",
        "voxelmorph_small",
        VOXELMORPH,
        UNET,
        PAIR,
        {"encoder": [16, 32, 32], "decoder": [32, 32, 32], "final": [], "half_resolution": True, "integration_steps": 5, "mind": []},
        training={"objective": {"name": "images_alike"}},
    ),
    Entry("regseg", "voxelmorph_diffeomorphic", DIFFEOMORPHIC, UNET, PAIR, HALVES, training={"objective": {"name": "images_alike"}}),
    Entry("regseg", "voxelmorph_labels", VOXELMORPH, UNET, PAIR, PLAIN, training={"objective": {"name": "images_alike", "labels": 1.0}}),
    Entry(
        "regseg",
        "displacement_regression",
        CLASSICAL,
        UNET,
        PAIR,
        PLAIN,
        training={"objective": {"name": "known_displacement"}, "examples": "classical"},
    ),
    Entry(
        "regseg",
        "displacement_simulated",
        SIMULATED,
        UNET,
        PAIR,
        PLAIN,
        training={"objective": {"name": "known_displacement"}, "examples": "simulated"},
    ),
    Entry(
        "regseg",
        "faim",
        FAIM,
        "cohortex.models.regseg.faim:faim",
        PAIR,
        {"width": 32, "sizes": [2, 5, 7, 11]},
        parameters=233_683,
        training={"objective": {"name": "images_alike", "folding": 1.0}},
    ),
    Entry(
        "regseg",
        "icnet",
        ICNET,
        "cohortex.models.regseg.icnet:icnet",
        PAIR,
        {"width": 8, "reach": 7.0},
        parameters=1_111_840,
        training={"objective": {"name": "inverse_consistent"}, "rate": 5e-4},
    ),
    Entry(
        "regseg",
        "affine_voxelmorph",
        ADMIR,
        "cohortex.models.regseg.affine_voxelmorph:affine_voxelmorph",
        PAIR,
        {"affine": [8, 16, 32, 64, 128], **PLAIN},
        training={"objective": {"name": "affine_and_deformable"}, "bend": {"turn_deg": 8.0, "shift": 2.0, "stretch": 0.06}},
    ),
    Entry(
        "regseg",
        "transmorph",
        TRANSMORPH,
        "cohortex.models.regseg.transmorph:transmorph",
        PAIR,
        {
            "features": 96,
            "depths": [2, 2, 4, 2],
            "heads": [4, 4, 8, 8],
            "window": 7,
            "ratio": 4,
            "final": 16,
            "half_resolution": False,
            "integration_steps": 0,
        },
        training={"objective": {"name": "images_alike"}, "rate": 1e-4},
    ),
    Entry(
        "regseg",
        "transmorph_small",
        TRANSMORPH,
        "cohortex.models.regseg.transmorph:transmorph",
        PAIR,
        {
            "features": 48,
            "depths": [2, 2, 2],
            "heads": [4, 4, 4],
            "window": 4,
            "ratio": 4,
            "final": 16,
            "half_resolution": True,
            "integration_steps": 5,
        },
        training={"objective": {"name": "images_alike"}, "rate": 5e-4},
    ),
]
