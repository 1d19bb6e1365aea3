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
    Entry(
        task="denoise",
        name="frame_unet",
        paper=(
            "This project's own. It takes up: Yu G., Sapiro G., DCT image denoising: a simple and effective image denoising algorithm, "
            "Image Processing On Line 1, 2011, doi:10.5201/ipol.2011.ys-dct; Ronneberger O. et al., U-Net: convolutional networks for "
            "biomedical image segmentation, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28"
        ),
        factory="cohortex.models.denoise.frame_unet:frame_unet",
        expects=Expects(dimensions=3, values="units of the noise"),
        options={"fine": 32, "coarse": 64, "blocks": 3},
    ),
]
