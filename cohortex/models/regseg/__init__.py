"""Networks and classical methods that bring images of a subject together and label them."""

from cohortex.models.registry import Entry, Expects

VOXELMORPH = (
    "Balakrishnan G. et al., VoxelMorph: a learning framework for deformable medical image registration, "
    "IEEE Trans. Med. Imaging 38(8), 2019, doi:10.1109/TMI.2019.2897538"
)
UNET3D = "Cicek O. et al., 3D U-Net: learning dense volumetric segmentation from sparse annotation, MICCAI 2016, arXiv:1606.06650"

ENTRIES = [
    Entry(
        task="regseg",
        name="voxelmorph",
        paper=VOXELMORPH,
        factory="cohortex.models.regseg.voxelmorph:voxelmorph",
        expects=Expects(dimensions=3, channels=2),
        options={
            "encoder": [16, 32, 32, 32],
            "decoder": [32, 32, 32, 32],
            "final": [32, 16, 16],
            "half_resolution": False,
            "integration_steps": 0,
        },
        parameters=301_411,
    ),
    Entry(
        task="regseg",
        name="voxelmorph_small",
        paper=VOXELMORPH,
        factory="cohortex.models.regseg.voxelmorph:voxelmorph",
        expects=Expects(dimensions=3, channels=2),
        options={
            "encoder": [16, 32, 32],
            "decoder": [32, 32, 32],
            "final": [],
            "half_resolution": True,
            "integration_steps": 5,
        },
    ),
    Entry(
        task="regseg",
        name="unet3d",
        paper=UNET3D,
        factory="cohortex.models.regseg.unet3d:unet3d",
        expects=Expects(dimensions=3, channels=3),
        options={
            "channels": 3,
            "classes": 3,
            "features": [64, 128, 256, 512],
            "growing": True,
            "upsampling": "transposed",
            "norm": "batch",
            "norm_affine": False,
        },
        parameters=19_069_955,
    ),
    Entry(
        task="regseg",
        name="unet3d_small",
        paper=UNET3D,
        factory="cohortex.models.regseg.unet3d:unet3d",
        expects=Expects(dimensions=3),
        options={
            "channels": 1,
            "classes": 7,
            "features": [8, 16, 32, 64],
            "growing": False,
            "upsampling": "linear",
            "norm": "batch",
            "norm_affine": True,
        },
    ),
]
