"""Classification of subjects and pictures: radiomic features with a logistic regression, networks, and their fusion.

Networks have the options ``channels`` (of the input) and ``classes`` (of the output), and ``dimensions`` where they can have both. Defaults
are those of the paper, photographs and all, so that its count can be checked; a training sets them. `SMALL` has what makes them fit for
pictures of some tens of pixels.
"""

from functools import partial
from typing import Any

from cohortex.models.registry import Entry, Expects, of_classes

_RESNET = "He K. et al., Deep residual learning for image recognition, CVPR 2016, doi:10.1109/CVPR.2016.90"
_VGG = "Simonyan K., Zisserman A., Very deep convolutional networks for large-scale image recognition, ICLR 2015, arXiv:1409.1556"
_FEATURES = {"features": [64, 128, 256, 512, 512]}


_entry = partial(of_classes, "classify", loss="cross_entropy")


def _vgg(depth: int, parameters: int) -> Entry:
    options = {"depth": depth, **_FEATURES, "hidden": 4096, "grid": 7, "norm": "none", "dropout": 0.5}
    return _entry(f"vgg{depth}", _VGG, 2, 3, 1000, options, parameters, factory="vgg:VGG")


def _resnet(depth: int, parameters: int) -> Entry:
    options = {"depth": depth, "width": 64, "stem": "plain", "bottleneck": None, "dropout": 0.0, "skips": True}
    return _entry(f"resnet{depth}", _RESNET, 2, 3, 1000, options, parameters, factory="resnet:ResNet")


_RECURRENT = {"depth": [1, 1, 1, 1], "width": 16, "stem": "plain", "dropout": 0.2}

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
    _entry(
        "alexnet",
        "Krizhevsky A. et al., ImageNet classification with deep convolutional neural networks, NeurIPS 2012, doi:10.1145/3065386; with "
        "the widths of Krizhevsky A., One weird trick for parallelizing convolutional neural networks, 2014, arXiv:1404.5997",
        2,
        3,
        1000,
        {"features": [64, 192, 384, 256, 256], "hidden": 4096, "grid": 6, "stem": "paper", "norm": "none", "dropout": 0.5},
        61_100_840,
        factory="alexnet:AlexNet",
    ),
    _vgg(11, 132_863_336),
    _vgg(16, 138_357_544),
    _resnet(18, 11_689_512),
    _resnet(34, 21_797_672),
    _resnet(50, 25_557_032),
    _entry(
        "densenet121",
        "Huang G. et al., Densely connected convolutional networks, CVPR 2017, doi:10.1109/CVPR.2017.243",
        2,
        3,
        1000,
        {"growth": 32, "blocks": [6, 12, 24, 16], "width": 64, "bottleneck": 4, "compression": 0.5, "stem": "paper", "dropout": 0.0},
        7_978_856,
        factory="densenet:DenseNet",
    ),
    _entry(
        "googlenet",
        "Szegedy C. et al., Going deeper with convolutions, CVPR 2015, doi:10.1109/CVPR.2015.7298594",
        2,
        3,
        1000,
        {"width": 1.0, "stem": "paper", "norm": "none", "large": 5, "auxiliary": False, "dropout": 0.4},
        6_998_552,
        factory="googlenet:GoogLeNet",
    ),
    _entry(
        "vit_b16",
        "Dosovitskiy A. et al., An image is worth 16x16 words: transformers for image recognition at scale, ICLR 2021, arXiv:2010.11929",
        2,
        3,
        1000,
        {"size": 224, "patch": 16, "width": 768, "hidden": 3072, "heads": 12, "layers": 12, "dropout": 0.0, "skip": 0.0},
        86_567_656,
        factory="vit:ViT",
    ),
    _entry(
        "swin_t",
        "Liu Z. et al., Swin transformer: hierarchical vision transformer using shifted windows, ICCV 2021, "
        "doi:10.1109/ICCV48922.2021.00986",
        2,
        3,
        1000,
        {"patch": 4, "width": 96, "depths": [2, 2, 6, 2], "heads": [3, 6, 12, 24], "window": 7, "ratio": 4, "skip": 0.2},
        28_288_354,
        factory="swin:Swin",
    ),
    _entry(
        "multi_stream",
        "Ciompi F. et al., Towards automatic pulmonary nodule management in lung cancer screening with deep learning, Sci. Rep. 7, 2017, "
        "doi:10.1038/srep46479",
        3,
        1,
        6,
        {
            "scales": [0.25, 0.5, 1.0],
            "size": 64,
            "features": [32, 64, 128],
            "hidden": 256,
            "shared": False,
            "norm": "batch",
            "dropout": 0.5,
        },
        factory="streams:MultiStream",
    ),
    _entry(
        "ag_cnn",
        "Li L. et al., A large-scale database and a CNN model for attention-based glaucoma detection, IEEE Trans. Med. Imaging 39(2), "
        "2020, doi:10.1109/TMI.2019.2927226",
        2,
        3,
        2,
        {"width": 32, "hidden": 256, "stem": "plain", "attention": True, "dropout": 0.2},
        factory="attention:AttentionGuided",
    ),
    _entry(
        "lacnn",
        "Fang L. et al., Attention to lesion: lesion-aware convolutional neural network for retinal optical coherence tomography image "
        "classification, IEEE Trans. Med. Imaging 38(8), 2019, doi:10.1109/TMI.2019.2898414",
        2,
        1,
        4,
        {"depth": 16, **_FEATURES, "norm": "batch", "weighting": True, "dropout": 0.5},
        factory="attention:LesionAware",
    ),
    _entry(
        "browse_focus",
        "Guan Q. et al., Thorax disease classification with attention guided convolutional neural network, Pattern Recognit. Lett. 131, "
        "2020, doi:10.1016/j.patrec.2019.11.040",
        2,
        3,
        14,
        {
            "backbone": "densenet",
            "growth": 32,
            "blocks": [6, 12, 24, 16],
            "width": 64,
            "stem": "paper",
            "bottleneck": True,
            "threshold": 0.7,
            "dropout": 0.0,
        },
        factory="focus:BrowseFocus",
    ),
    _entry(
        "stacked_autoencoder",
        "Vincent P. et al., Stacked denoising autoencoders: learning useful representations in a deep network with a local denoising "
        "criterion, J. Mach. Learn. Res. 11, 2010, doi:10.5555/1756006.1953039",
        2,
        1,
        10,
        {"grid": 28, "widths": [1000, 1000, 1000], "noise": 0.25, "dropout": 0.0},
        factory="layerwise:StackedAutoencoder",
    ),
    _entry(
        "deep_belief",
        "Hinton G. E. et al., A fast learning algorithm for deep belief nets, Neural Comput. 18(7), 2006, doi:10.1162/neco.2006.18.7.1527",
        2,
        1,
        10,
        {"grid": 28, "widths": [500, 500, 2000], "dropout": 0.0},
        factory="layerwise:DeepBelief",
    ),
    _entry(
        "slice_rnn",
        "Recurrent cells over slices as Grewal M. et al., RADnet: radiologist level accuracy using deep learning for hemorrhage detection "
        "in CT scans, ISBI 2018, doi:10.1109/ISBI.2018.8363574; cells: Hochreiter S., Schmidhuber J., Long short-term memory, Neural "
        "Comput. 9(8), 1997, doi:10.1162/neco.1997.9.8.1735, and Cho K. et al., EMNLP 2014, doi:10.3115/v1/D14-1179",
        3,
        1,
        2,
        {"cell": "lstm", "hidden": 128, "layers": 1, "both": True, **_RECURRENT},
        factory="slices:SliceRNN",
        fixed=True,
    ),
    _entry(
        "time_lstm",
        "Santeramo R. et al., Longitudinal detection of radiological abnormalities with time-modulated LSTM, DLMIA 2018, "
        "doi:10.1007/978-3-030-00889-5_37",
        3,
        1,
        2,
        {"modulation": "gates", "hidden": 128, "reports": 0, **_RECURRENT},
        factory="slices:ExamLSTM",
        fixed=True,
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

_SMALL_VGG = {"features": [16, 32, 64, 64, 64], "hidden": 64, "grid": 1, "norm": "batch", "dropout": 0.2}
_SMALL_RESNET = {"stem": "small", "width": 16}

SMALL: dict[str, dict[str, Any]] = {
    "alexnet": {"features": [16, 32, 48, 32, 32], "hidden": 64, "grid": 2, "stem": "small", "norm": "batch", "dropout": 0.2},
    "vgg11": _SMALL_VGG,
    "vgg16": _SMALL_VGG,
    "resnet18": _SMALL_RESNET,
    "resnet34": _SMALL_RESNET,
    "resnet50": {**_SMALL_RESNET, "width": 8},
    "densenet121": {"growth": 8, "blocks": [4, 4, 4], "width": 16, "stem": "small"},
    "googlenet": {"width": 0.125, "stem": "small", "norm": "batch", "large": 3, "dropout": 0.2},
    "vit_b16": {"size": 28, "patch": 4, "width": 64, "hidden": 128, "heads": 4, "layers": 4},
    "swin_t": {"patch": 2, "width": 24, "depths": [2, 2], "heads": [2, 4], "window": 7, "ratio": 2, "skip": 0.0},
    "multi_stream": {"size": 28, "features": [8, 16, 32], "hidden": 64, "dropout": 0.2},
    "ag_cnn": {"width": 8, "hidden": 32, "stem": "small"},
    "lacnn": {"depth": 11, "features": [8, 16, 32, 32, 32], "dropout": 0.2},
    "browse_focus": {"backbone": "resnet", "blocks": [1, 1, 1], "width": 16, "stem": "small", "bottleneck": False},
    "stacked_autoencoder": {"widths": [256, 128]},
    "deep_belief": {"widths": [256, 128]},
    "slice_rnn": {"hidden": 32, "depth": [1, 1, 1], "width": 8, "stem": "small"},
    "time_lstm": {"hidden": 32, "depth": [1, 1, 1], "width": 8, "stem": "small"},
}
"""Options, by network, for pictures of some tens of pixels (28 x 28) that a processor trains in minutes."""
