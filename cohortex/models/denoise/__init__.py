"""Networks that remove noise."""

from cohortex.models.registry import NOISE_UNITS, Entry, Expects

_AT = "cohortex.models.denoise"

ENTRIES = [
    Entry(
        task="denoise",
        name="redcnn",
        paper=(
            "Chen H. et al., Low-dose CT with a residual encoder-decoder convolutional neural network, "
            "IEEE Trans. Med. Imaging 36(12), 2017, doi:10.1109/TMI.2017.2715284"
        ),
        factory=f"{_AT}.redcnn:redcnn",
        expects=Expects(dimensions=2),
        options={"filters": 96},
        parameters=1_848_865,
        training={"objective": "squared_error", "patch": 40, "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="cnn_dae",
        paper=(
            "Gondara L., Medical image denoising using convolutional denoising autoencoders, "
            "IEEE Int. Conf. Data Mining Workshops (ICDMW), 2016, doi:10.1109/ICDMW.2016.0041"
        ),
        factory=f"{_AT}.cnn_dae:cnn_dae",
        expects=Expects(dimensions=2),
        options={"filters": 64, "output": "sigmoid"},
        training={"objective": "squared_error", "patch": 64, "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="wavelet_cnn",
        paper=(
            "Kang E., Min J., Ye J. C., A deep convolutional neural network using directional wavelets for low-dose X-ray CT "
            "reconstruction, Med. Phys. 44(10), 2017, doi:10.1002/mp.12344"
        ),
        factory=f"{_AT}.wavelet_cnn:wavelet_cnn",
        expects=Expects(dimensions=2),
        options={"filters": 128, "modules": 6, "directions": [8, 4, 2], "bypass": "lowest"},
        parameters=4_172_175,
        training={"objective": "coefficient_error", "patch": 56, "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="wgan_vgg",
        paper=(
            "Yang Q. et al., Low-dose CT image denoising using a generative adversarial network with Wasserstein distance and "
            "perceptual loss, IEEE Trans. Med. Imaging 37(6), 2018, doi:10.1109/TMI.2018.2827462"
        ),
        factory=f"{_AT}.wgan_vgg:wgan_vgg",
        expects=Expects(dimensions=2),
        options={"filters": 32},
        parameters=56_097,
        training={"objective": "wgan_features", "patch": 64, "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="smgan",
        paper=(
            "You C. et al., Structurally-sensitive multi-scale deep neural network for low-dose CT denoising, "
            "IEEE Access 6, 2018, doi:10.1109/ACCESS.2018.2858196"
        ),
        factory=f"{_AT}.smgan:smgan",
        expects=Expects(dimensions=3),
        options={"dimensions": 3, "filters": 32},
        parameters=167_841,
        training={"objective": "wgan_structure", "patch": [80, 80, 11], "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="noise_gan",
        paper=(
            "Ma Y. et al., Low-dose CT image denoising using a generative adversarial network with a hybrid loss function for noise "
            "learning, IEEE Access 8, 2020, doi:10.1109/ACCESS.2020.2986388"
        ),
        factory=f"{_AT}.noise_gan:noise_gan",
        expects=Expects(dimensions=2),
        options={"filters": 64, "blocks": 8, "predicts": "noise"},
        training={"objective": "least_squares_gan", "patch": 64, "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="sinogram_attention",
        paper=(
            "Ma Y.-J. et al., Sinogram denoising via attention residual dense convolutional neural network for low-dose computed "
            "tomography, Nucl. Sci. Tech. 32:41, 2021, doi:10.1007/s41365-021-00874-2"
        ),
        factory=f"{_AT}.sinogram_attention:sinogram_attention",
        expects=Expects(dimensions=2, whole_slices=True),
        options={"filters": 32, "growth": 16, "blocks": 4, "layers": 4, "views": 0},
        training={"objective": "squared_error", "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="dp_resnet",
        paper=(
            "Yin X. et al., Domain progressive 3D residual convolution network to improve low-dose CT imaging, "
            "IEEE Trans. Med. Imaging 38(12), 2019, doi:10.1109/TMI.2019.2917258"
        ),
        factory=f"{_AT}.dp_resnet:dp_resnet",
        expects=Expects(dimensions=3, whole_slices=True),
        options={"filters": 32, "blocks": 2, "domains": "both", "views": 0},
        training={"objective": "squared_error", "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="unet",
        paper=(
            "Jin K. H. et al., Deep convolutional neural network for inverse problems in imaging, "
            "IEEE Trans. Image Process. 26(9), 2017, doi:10.1109/TIP.2017.2713099"
        ),
        factory=f"{_AT}.unet:unet",
        expects=Expects(dimensions=2),
        options={"dimensions": 2, "features": [32, 64, 128], "adjacent": 0},
        training={"objective": "squared_error", "patch": 64, "rate": 6e-4},
    ),
    Entry(
        task="denoise",
        name="blind_spot",
        paper="Wu X. et al., Unpaired learning of deep image denoising, Europ. Conf. Computer Vision (ECCV), 2020, arXiv:2008.13711",
        factory=f"{_AT}.blind_spot:blind_spot",
        expects=Expects(dimensions=2),
        options={"dimensions": 2, "filters": 32, "depth": 4, "hole": 0},
        training={"objective": "blind_spot", "patch": 64, "rate": 6e-4},
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
        expects=Expects(dimensions=3, values=NOISE_UNITS),
        options={"fine": 48, "coarse": 96, "blocks": 2},
        training={"objective": "squared_error"},
    ),
    Entry(
        task="denoise",
        name="frame_unet_2d",
        paper=(
            "This project's own. It takes up: Yu G., Sapiro G., DCT image denoising: a simple and effective image denoising algorithm, "
            "Image Processing On Line 1, 2011, doi:10.5201/ipol.2011.ys-dct; Ronneberger O. et al., U-Net: convolutional networks for "
            "biomedical image segmentation, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28"
        ),
        factory=f"{_AT}.frame_unet_2d:frame_unet_2d",
        expects=Expects(dimensions=2, values=NOISE_UNITS),
        options={"fine": 32, "coarse": 64, "blocks": 2},
        training={"objective": "recorrupted", "batch": 8, "patch": 48, "rate": 5e-4},
    ),
    Entry(
        task="denoise",
        name="half_grid_unet",
        paper=(
            "This project's own. It takes up: Ronneberger O. et al., U-Net: convolutional networks for biomedical image segmentation, "
            "MICCAI 2015, doi:10.1007/978-3-319-24574-4_28; Shi W. et al., Real-time single image and video super-resolution using an "
            "efficient sub-pixel convolutional neural network, CVPR 2016, doi:10.1109/CVPR.2016.207"
        ),
        factory=f"{_AT}.half_grid_unet:half_grid_unet",
        expects=Expects(dimensions=2, channels=5),
        options={"features": [64, 96, 96], "adjacent": 2, "scale": 16.0},
        training={"objective": "squared_error", "patch": 64, "rate": 6e-4},
    ),
]
