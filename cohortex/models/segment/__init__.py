"""Networks that segment: the logits of every class at every voxel (`cohortex.models.segment.layers.SegmentationNetwork`).

Every one has the options ``channels`` (of the input) and ``classes`` (of the output, the background first). Defaults are those of the
paper, pictures of three colours and all, so that its count can be checked; a training sets both.
"""

from functools import partial

from cohortex.models.registry import of_classes

_VGG = {"features": [64, 128, 256, 512, 512], "norm": "none", "dropout": 0.5}
_3D_UNET = "Cicek O. et al., 3D U-Net: learning dense volumetric segmentation from sparse annotation, MICCAI 2016, arXiv:1606.06650"

_entry = partial(of_classes, "segment", loss="dice_cross_entropy")

ENTRIES = [
    _entry(
        "planned_unet",
        "Isensee F. et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
        "Nat. Methods 18, 2021, doi:10.1038/s41592-020-01008-z; norms and planning are this project's own",
        3,
        1,
        2,
        {
            "features": [32, 64, 128, 256, 320, 320],
            "kernels": [],
            "strides": [],
            "blocks": 2,
            "residual": False,
            "norm": "batch",
            "deep_supervision": True,
        },
    ),
    _entry(
        "unet",
        "Ronneberger O. et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015, "
        "doi:10.1007/978-3-319-24574-4_28",
        2,
        1,
        2,
        {"features": [64, 128, 256, 512, 1024], "valid": True, "norm": "none", "dropout": 0.5},
        31_030_658,
        loss="cross_entropy",
    ),
    _entry(
        "unetplusplus",
        "Zhou Z. et al., UNet++: a nested U-Net architecture for medical image segmentation, DLMIA 2018, doi:10.1007/978-3-030-00889-5_1",
        2,
        1,
        1,
        {"features": [32, 64, 128, 256, 512], "norm": "none", "deep_supervision": False, "level": 0},
        9_041_601,
    ),
    _entry(
        "attention_unet",
        "Oktay O. et al., Attention U-Net: learning where to look for the pancreas, MIDL 2018, arXiv:1804.03999",
        3,
        1,
        2,
        {"features": [16, 32, 64, 128, 256], "gates": True},
        loss="dice",
    ),
    _entry(
        "vnet",
        "Milletari F. et al., V-Net: fully convolutional neural networks for volumetric medical image segmentation, "
        "3DV 2016, doi:10.1109/3DV.2016.79",
        3,
        1,
        2,
        {"features": [16, 32, 64, 128, 256], "depths": [1, 2, 3, 3, 3], "norm": "none"},
        loss="squared_dice",
    ),
    _entry(
        "unet3d",
        _3D_UNET,
        3,
        3,
        3,
        {"features": [64, 128, 256, 512], "growing": True, "upsampling": "transposed", "norm": "batch", "norm_affine": False},
        19_069_955,
        loss="weighted_cross_entropy",
        fixed=True,
    ),
    _entry(
        "unet3d_small",
        _3D_UNET,
        3,
        1,
        7,
        {"features": [8, 16, 32, 64], "growing": False, "upsampling": "linear", "norm": "batch", "norm_affine": True},
        factory="unet3d:unet3d",
        fixed=True,
    ),
    _entry(
        "segnet",
        "Badrinarayanan V. et al., SegNet: a deep convolutional encoder-decoder architecture for image segmentation, "
        "IEEE Trans. Pattern Anal. Mach. Intell. 39(12), 2017, doi:10.1109/TPAMI.2016.2644615",
        2,
        3,
        12,
        {"features": [64, 128, 256, 512, 512], "unpooling": "indices"},
        29_449_932,
        loss="weighted_cross_entropy",
    ),
    _entry(
        "fcn",
        "Long J. et al., Fully convolutional networks for semantic segmentation, CVPR 2015, doi:10.1109/CVPR.2015.7298965",
        2,
        3,
        21,
        {"stride": 8, **_VGG, "hidden": 4096},
        loss="cross_entropy",
    ),
    _entry(
        "deeplab_v1",
        "Chen L.-C. et al., Semantic image segmentation with deep convolutional nets and fully connected CRFs, ICLR 2015, arXiv:1412.7062",
        2,
        3,
        21,
        {**_VGG, "hidden": 1024, "rate": 12},
        20_505_429,
        loss="cross_entropy",
        factory="deeplab:deeplab_v1",
    ),
    _entry(
        "deeplab_v2",
        "Chen L.-C. et al., DeepLab: semantic image segmentation with deep convolutional nets, atrous convolution, and fully connected "
        "CRFs, IEEE Trans. Pattern Anal. Mach. Intell. 40(4), 2018, doi:10.1109/TPAMI.2017.2699184",
        2,
        3,
        21,
        {"depth": 101, "width": 64, "rates": [6, 12, 18, 24], "scales": [1.0]},
        loss="cross_entropy",
        factory="deeplab:deeplab_v2",
    ),
    _entry(
        "deeplab_v3",
        "Chen L.-C. et al., Rethinking atrous convolution for semantic image segmentation, 2017, arXiv:1706.05587",
        2,
        3,
        21,
        {
            "depth": 101,
            "width": 64,
            "stride": 16,
            "rates": [6, 12, 18],
            "grid": [1, 2, 4],
            "image_pooling": True,
            "filters": 256,
        },
        loss="cross_entropy",
        factory="deeplab:deeplab_v3",
    ),
    _entry(
        "enet",
        "Paszke A. et al., ENet: a deep neural network architecture for real-time semantic segmentation, 2016, arXiv:1606.02147",
        2,
        3,
        19,
        {"width": 16, "dropout": 0.1},
        loss="weighted_cross_entropy",
    ),
    _entry(
        "pspnet",
        "Zhao H. et al., Pyramid scene parsing network, CVPR 2017, doi:10.1109/CVPR.2017.660",
        2,
        3,
        21,
        {"depth": 50, "width": 64, "bins": [1, 2, 3, 6], "pooling": "average", "dropout": 0.1},
        loss="cross_entropy",
    ),
    _entry(
        "frrn",
        "Pohlen T. et al., Full-resolution residual networks for semantic segmentation in street scenes, CVPR 2017, "
        "doi:10.1109/CVPR.2017.353",
        2,
        3,
        19,
        {"kind": "A", "width": 48, "lane": 32, "factor": 1.0},
        loss="bootstrapped_cross_entropy",
    ),
    _entry(
        "r2unet",
        "Alom M. Z. et al., Recurrent residual U-Net for medical image segmentation, J. Med. Imaging 6(1), 2019, "
        "doi:10.1117/1.JMI.6.1.014006",
        2,
        3,
        1,
        {"features": [64, 128, 256, 512, 1024], "steps": 2},
        39_091_393,
    ),
    _entry(
        "bcdunet",
        "Azad R. et al., Bi-directional ConvLSTM U-Net with densley connected convolutions, ICCV Workshops 2019, arXiv:1909.00166",
        2,
        1,
        2,
        {"features": [64, 128, 256, 512], "blocks": 3, "lstm": True, "dropout": 0.5},
        loss="cross_entropy",
    ),
    _entry(
        "unetr",
        "Hatamizadeh A. et al., UNETR: transformers for 3D medical image segmentation, WACV 2022, doi:10.1109/WACV51458.2022.00181",
        3,
        1,
        14,
        {"size": 96, "features": 16, "width": 768, "hidden": 3072, "heads": 12, "layers": 12},
    ),
    _entry(
        "swin_unetr",
        "Hatamizadeh A. et al., Swin UNETR: Swin transformers for semantic segmentation of brain tumors in MRI images, BrainLes 2021, "
        "doi:10.1007/978-3-031-08999-2_22",
        3,
        1,
        14,
        {"features": 48, "depths": [2, 2, 2, 2], "heads": [3, 6, 12, 24], "window": 7, "ratio": 4, "shift": True},
        62_187_296,
    ),
    _entry(
        "triplanar",
        "Moeskops P. et al., Deep learning for multi-task medical image segmentation in multiple modalities, MICCAI 2016, "
        "doi:10.1007/978-3-319-46723-8_55",
        3,
        1,
        2,
        {"layers": 25, "features": 32, "hidden": 192, "dropout": 0.5, "kernels": "planes"},
        loss="cross_entropy",
        fixed=True,
    ),
]
