"""Networks and classical methods that bring images of a subject together; the networks that label them are those of `segment`."""

from cohortex.models.registry import Entry, Expects

VOXELMORPH = (
    "Balakrishnan G. et al., VoxelMorph: a learning framework for deformable medical image registration, "
    "IEEE Trans. Med. Imaging 38(8), 2019, doi:10.1109/TMI.2019.2897538"
)

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
]
