"""Networks that find things in images and put a box around each (`cohortex.models.recognize.detector.Detector`).

Every one has the options ``channels`` (of the input), ``classes`` (of things; the background is not counted) and ``dimensions``. Defaults
are small enough for a processor; the options that make the papers' networks are in the networks' docstrings.
"""

from collections.abc import Mapping
from typing import Any

from cohortex.models.registry import Entry, Expects

_SMALL = {"backbone": [16, 32, 64, 128], "stem": 2, "norm": "batch"}
_PYRAMID = {**_SMALL, "first": 1, "further": 1, "filters": 64}
_RETINA = {
    **_PYRAMID,
    "convs": 4,
    "anchor": 4.0,
    "ratios": [0.5, 1.0, 2.0],
    "scales": [1.0, 2 ** (1 / 3), 2 ** (2 / 3)],
    "matching": "adaptive",
    "loss": "focal",
    "gamma": 2.0,
    "alpha": 0.25,
}

_FASTER = {
    **_PYRAMID,
    "hidden": 128,
    "anchor": 4.0,
    "ratios": [0.5, 1.0, 2.0],
    "scales": [1.0, 2**0.5],
    "proposals": 100,
    "size": 7,
    "regions": "align",
    "sampled_anchors": 256,
    "sampled_boxes": 64,
}


def _entry(name: str, paper: str, factory: str, options: Mapping[str, Any]) -> Entry:
    return Entry(
        task="recognize",
        name=name,
        paper=paper,
        factory=f"cohortex.models.recognize.{factory}",
        expects=Expects(dimensions=2, channels=1, values="0..1"),
        options={"dimensions": 2, "channels": 1, "classes": 1, **options},
    )


ENTRIES = [
    _entry(
        "patch_detector",
        "After Ciresan D. et al., Mitosis detection in breast cancer histology images with deep neural networks, MICCAI 2013, "
        "doi:10.1007/978-3-642-40763-5_51: a classifier of patches at every position, and the maxima of its map",
        "patches:PatchDetector",
        {"patch": 24, "filters": [16, 32], "hidden": 64, "norm": "batch"},
    ),
    _entry(
        "faster_rcnn",
        "Ren S. et al., Faster R-CNN: towards real-time object detection with region proposal networks, NeurIPS 2015, arXiv:1506.01497; "
        "on a feature pyramid: Lin T.-Y. et al., CVPR 2017, doi:10.1109/CVPR.2017.106",
        "faster:FasterRcnn",
        _FASTER,
    ),
    _entry(
        "mask_rcnn",
        "He K. et al., Mask R-CNN, ICCV 2017, doi:10.1109/ICCV.2017.322",
        "mask:MaskRcnn",
        {"mask_size": 14, "mask_convs": 2, **_FASTER},
    ),
    _entry(
        "yolo",
        "Redmon J. et al., You only look once: unified, real-time object detection, CVPR 2016, doi:10.1109/CVPR.2016.91",
        "yolo:Yolo",
        {**_SMALL, "filters": 128, "boxes": 2, "largest": 128.0, "coordinates": 5.0, "nothing": 0.5},
    ),
    _entry(
        "yolo2",
        "Redmon J., Farhadi A., YOLO9000: better, faster, stronger, CVPR 2017, doi:10.1109/CVPR.2017.690; what is made small follows "
        "YOLOv3, 2018, arXiv:1804.02767, and Bochkovskiy A. et al., YOLOv4, 2020, arXiv:2004.10934",
        "yolo2:Yolo2",
        {**_SMALL, "filters": 128, "anchor": 4.0, "ratios": [1.0], "scales": [1.0, 2.0, 4.0], "alike": 0.4},
    ),
    _entry(
        "ssd",
        "Liu W. et al., SSD: single shot multibox detector, ECCV 2016, doi:10.1007/978-3-319-46448-0_2",
        "ssd:Ssd",
        {**_SMALL, "first": 1, "further": 1, "anchor": 4.0, "ratios": [[2.0, 0.5]], "negatives": 3.0},
    ),
    _entry(
        "retinanet",
        "Lin T.-Y. et al., Focal loss for dense object detection, ICCV 2017, doi:10.1109/ICCV.2017.324; anchors are matched as in "
        "Zhang S. et al., Bridging the gap between anchor-based and anchor-free detection, CVPR 2020, doi:10.1109/CVPR42600.2020.00978",
        "retinanet:RetinaNet",
        _RETINA,
    ),
    _entry(
        "windowed_retinanet",
        "After Li Z. et al., MVP-Net: multi-view FPN with position-aware attention for deep universal lesion detection, MICCAI 2019, "
        "doi:10.1007/978-3-030-32226-7_2",
        "windows:WindowedRetinaNet",
        {"windows": [[0.0, 1.0], [0.0, 0.5], [0.25, 0.75]], **_RETINA},
    ),
    _entry(
        "cascade",
        "Dou Q. et al., Automatic detection of cerebral microbleeds from MR images via 3D convolutional neural networks, IEEE Trans. Med. "
        "Imaging 35(5), 2016, doi:10.1109/TMI.2016.2528129; contexts of several sizes: Multilevel contextual 3-D CNNs for false positive "
        "reduction in pulmonary nodule detection, IEEE Trans. Biomed. Eng. 64(7), 2017, doi:10.1109/TBME.2016.2613502",
        "cascade:Cascade",
        {
            "patch": 16,
            "screening": [8, 16],
            "contexts": [12, 20, 32],
            "filters": 16,
            "weights": [],
            "candidates": 50,
            "threshold": 0.1,
            "norm": "batch",
        },
    ),
]
