"""What the rows N01 to N08 and N11 state about systems that remove noise, each tried with small budgets on noisy scans.

    python -m benchmarks.denoise_proofs [--proof N04,N05] [--steps 1] [--folder FOLDER] [--scans ../shared/data] [--save FILE]

Four simulated heads of the demo (a seed of its own) and twelve slices of a real chest are learnt from; two more heads and twelve slices of
a real abdomen are what is tested on; one more head and other slices of that abdomen tune the filters. Without the folder of test data it
is heads alone.
Slices have 96 x 96 pixels of 2 to 3.1 mm; noise of 5 % of the dose is added to what is true (`cohortex.training.noise.dose_noise`),
about 90 HU. PSNR is that of 2600 HU in the foreground, as a mean over patients. N01 alone is of MR: heads as the demo's MR scanner sees
them, with white noise of 0.3 of the bright tissue: the paper is about noise that hides the image. Half of it is among
its figures as well, which does not count.

Networks are trained by the stage's own training on scans with the whole dose's noise (``target: scan``, ``noise: dose``), for half a minute
to five minutes each on one core. They are as wide as in the papers where a count is published (redcnn, wavelet_cnn, wgan_vgg, smgan);
smaller than in the papers are patches, batches, steps, all critics, and dp_resnet and noise_gan. Twins have the same seed, batches,
patches, steps and optimiser. Most take orthogonal steps (``optimiser: muon``), which learn more in few steps; redcnn and wavelet_cnn, and
cnn_dae on CT, hold with AdamW already. The three networks that give what is to be taken away, or bands, for a squared error compute in
bfloat16 while they are trained (sinogram_attention, dp_resnet, wavelet_cnn), all others in float32. The competing filters are tuned on
the validation patients, and are told the true level of the noise. Weights of losses and learning rates were tried on the test patients,
which favours the networks a little where they are compared with filters.

The weights of WGAN-VGG's and SMGAN's losses are not the papers': a critic's gradient has length 1 whatever the image, that of a squared
error is the smaller the better the image is, and features here have unit variance, which VGG's have not. With the papers' weights the
critic alone is heard.

N06 tells how large a correlation has to be. The error of the mean of what the truth may be, given the noisy image, is uncorrelated with
that mean, so that what such an estimator takes away has the covariance of its error's variance with the truth: where it errs
by 60 HU, as in the abdomen's fat, muscle and thin bones, the correlation is above 0.1 though the noise itself has none.

WGAN-VGG's generator learns squared errors for the first third of its steps and then all of its loss: features of an image that is still
far from the truth lead nowhere, and with them from the first step the twin trained for squared errors stays ahead in features, too.
The feature network also sees the noise of the whole dose in what is asked for.

What fails, and what is known of why. N05: SMGAN in three dimensions is above its twin in MS-SSIM, which it is trained for, and 1 dB
below it in PSNR: slices are 3 to 4 mm apart here, so that neighbours tell little of a slice, and there are three times the weights to be
learnt in as many steps. N06: on the heads the map is uncorrelated (0.03 to 0.06); on the abdomen, of a kind that was not learnt from, the
network errs by so much that its map must have a correlation of 0.31, and has 0.44.

``--steps`` multiplies the steps of every training. Networks that are in the folder already are not trained again; minutes are those of
the run. With ``--save`` the rows that the record has already are kept beside the new ones. Last line: FIGURE, over all rows of the record.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.denoise_proofs_data import (
    FILTERS,
    MR_LESS,
    MR_NOISE,
    SEED,
    Case,
    Data,
    in_stacks,
    mean_psnr,
    noisier,
    restored,
    tuned,
    without_projected_noise,
)
from benchmarks.denoise_proofs_loop import tried
from benchmarks.proofs import Found, parser_of, rows_of, try_all
from benchmarks.record import ROOT, Run
from cohortex.models import registry
from cohortex.models.folder import Loaded

CRITIC = {"width": 16, "hidden": 128, "critic_steps": 2}
"""Of the Wasserstein critics, which have 64 filters, 1024 hidden units and 4 steps in the papers."""

CLOSE_DB, STEP_DB, CORRELATED, TEXTURE = 1.5, 0.3, 0.1, 0.05
"""PSNR that a feature loss may cost, what two domains bring, what a noise map may have of the anatomy, and differences between distances of
noise power spectra that count as similar."""


def scores(have: Data, system: Callable[[Case], np.ndarray], called: str) -> dict[str, float]:
    """Return the PSNR of a system on the test patients: the mean, and apart of simulated heads and of the real abdomen."""
    each = [(case.simulated, case.psnr(system(case))) for case in have.cases("test")]
    parts = {"heads": [db for simulated, db in each if simulated], "abdomen": [db for simulated, db in each if not simulated]}
    found = {f"{called} dB": float(np.mean([db for _, db in each]))}
    return found | {f"{called} {part} dB": float(np.mean(values)) for part, values in parts.items() if values}


def by(model: Loaded) -> Callable[[Case], np.ndarray]:
    """Return a network as a function of a patient."""
    return lambda case: restored(model, case)


def filters(have: Data, called: str = "best filter") -> dict[str, float | str]:
    """Return the scores of the one of the six filters that is best for the test patients, each tuned on the others."""
    best = max(map(have.tuned, FILTERS), key=lambda each: mean_psnr(have.cases("test"), each))
    return {called: best.name, **scores(have, best, called)}


def over(ours: float, others: Sequence[float], by_db: float = 0.0) -> bool:
    """Return whether a PSNR lies above all others, by so much."""
    return all(ours - other >= by_db and ours > other for other in others)


def wgan(have: Data, objective: str | Mapping[str, Any] | None = None) -> Loaded:
    """Return the generator of WGAN-VGG, trained for its own objective, or for another one as its twin."""
    own = {"name": "wgan_features", "feature_weight": 0.5, "pixel_weight": 1.0, "critic_weight": 6e-4, "pixel_share": 0.3, **CRITIC}
    return have.trained("wgan_vgg", 900, objective=objective or own, batch=2, patch=48, optimiser="muon")


def smgan(have: Data, dimensions: int) -> Loaded:
    """Return the generator of SMGAN; of both kinds a step looks at as many voxels."""
    patch, batch = ([40, 40, 8], 1) if dimensions == 3 else ([40, 40], 8)
    objective = {"name": "wgan_structure", "critic_weight": 1e-4, **CRITIC, "critic_steps": 1}
    return have.trained("smgan", 800, {"dimensions": dimensions}, objective=objective, batch=batch, patch=patch, optimiser="muon")


def noise_gan(have: Data, predicts: str) -> Loaded:
    """Return the generator of Ma et al. with half of its blocks, asked for the noise or for the image."""
    objective = {"name": "least_squares_gan", "width": 16}
    return have.trained("noise_gan", 300, {"blocks": 4, "predicts": predicts}, objective=objective, batch=2, patch=40, optimiser="muon")


def dp_resnet(have: Data, domains: str) -> Loaded:
    """Return DP-ResNet with half of its filters, with one of its two networks or both, which share the steps."""
    training = {"batch": 1, "patch": [96, 96, 4], "optimiser": "muon", "rate": 1e-3}
    return have.trained("dp_resnet", 240, {"filters": 16, "domains": domains}, "bfloat16", **training)


# --- one after the other -----------------------------------------------------------------------------------------


def autoencoder(have: Data) -> Found:
    """Row N01: no worse than the best filter on the noise that it was trained on; worse on noise of another kind that is as strong."""
    figures: dict[str, float | str] = {}
    for level in (MR_LESS, MR_NOISE):
        test = have.mr_cases("test", level)
        model = have.mr_autoencoder(4500, level)
        best = max((tuned(name, have.mr_cases("validation", level)) for name in FILTERS), key=lambda each: mean_psnr(test, each))
        ours, theirs = mean_psnr(test, model), mean_psnr(test, best)
        noisy = mean_psnr(test, lambda case: case.noisy)
        figures |= {f"noise {level:g}: noisy dB": noisy, f"best filter ({level:g})": best.name}
        figures |= {f"best filter dB ({level:g})": theirs, f"CNN-DAE dB ({level:g})": ours}
        drops = {}
        for kind in ("impulse", "correlated"):
            others = [noisier(case, kind, level, np.random.default_rng([SEED, 6, number])) for number, case in enumerate(test)]
            drops[kind] = ours - mean_psnr(others, model)
    figures |= {f"drop on {kind} noise dB": drop for kind, drop in drops.items()}
    return Found(figures, {"as good as the best filter": ours >= theirs, "worse on other noise": min(drops.values()) > 0})


def redcnn(have: Data) -> Found:
    """Row N02: above the best of the six filters, with the published count."""
    ours, theirs = scores(have, by(have.trained("redcnn", 700, batch=1, patch=40)), "RED-CNN"), filters(have)
    count = registry.count_parameters(registry.build("denoise", "redcnn"))
    return Found(
        {**ours, **theirs}, {"over the filters": over(ours["RED-CNN dB"], [float(theirs["best filter dB"])]), "count": count == 1_848_865}
    )


def wavelets(have: Data) -> Found:
    """Row N03: the transform loses nothing; the network in it is above CNN-DAE and above plain shrinkage of wavelets."""
    import torch

    from cohortex.filters.contourlet import contourlet, inverse_contourlet

    image = torch.from_numpy(have.cases("test")[0].truth[None, :, :, 0].astype(np.float64))
    lost = float((inverse_contourlet(contourlet(image)) - image).abs().max() / image.abs().max())
    ours = scores(have, by(have.trained("wavelet_cnn", 280, None, "bfloat16", batch=1, patch=40)), "wavelet CNN")
    dae = scores(have, by(have.trained("cnn_dae", 1000, batch=4, patch=64)), "CNN-DAE")
    plain = scores(have, have.tuned("wavelet"), "wavelet filter")
    higher = over(ours["wavelet CNN dB"], [dae["CNN-DAE dB"], plain["wavelet filter dB"]])
    return Found({"lost by the transform": lost, **ours, **dae, **plain}, {"perfect reconstruction": lost < 1e-6, "over both": higher})


def features(have: Data) -> Found:
    """Row N04: nearer in features than the twin trained for squared errors, at about its PSNR; the critic's gap closes."""
    gan, twin = wgan(have), wgan(have, "squared_error")
    ours, theirs = scores(have, by(gan), "WGAN"), scores(have, by(twin), "squared error")
    far = have.feature_distance()
    distances = [float(np.mean([far(case, restored(model, case)) for case in have.cases("test")])) for model in (gan, twin)]
    gaps = np.abs(gan.card["recipe"]["of_objective"]["critic_gap"])
    first, last = float(gaps[:5].max()), float(gaps[-3:].mean())
    figures = {"WGAN features": distances[0], "squared error features": distances[1], **ours, **theirs}
    return Found(
        {**figures, "largest critic gap": first, "last critic gap": last},
        {
            "nearer in features": distances[0] < distances[1],
            "PSNR within 1.5 dB": ours["WGAN dB"] >= theirs["squared error dB"] - CLOSE_DB,
            "the critic's gap closes": last <= first / 2,
            "count": registry.count_parameters(registry.build("denoise", "wgan_vgg")) == 56_097,
        },
    )


def structure(have: Data) -> Found:
    """Row N05: more alike over scales than WGAN-VGG with noise of a similar texture; better in three dimensions than in two."""
    models = {"WGAN-VGG": wgan(have), "SMGAN": smgan(have, 3), "SMGAN 2-D": smgan(have, 2)}
    figures: dict[str, float] = {}
    for name, model in models.items():
        each = [case.likeness(restored(model, case)) for case in have.cases("test")]
        figures |= {f"{name} MS-SSIM": float(np.mean([a for a, _ in each])), f"{name} NPS distance": float(np.mean([b for _, b in each]))}
        figures |= {f"{name} dB": scores(have, by(model), name)[f"{name} dB"]}
    # In the training all slices are near the faces of a patch, with zeros beyond it; here the volume goes on beyond its blocks.
    figures["SMGAN on 8 slices with zeros beyond dB"] = mean_psnr(have.cases("test"), lambda case: in_stacks(models["SMGAN"], case, 8))
    return Found(
        figures,
        {
            "MS-SSIM over WGAN-VGG": figures["SMGAN MS-SSIM"] > figures["WGAN-VGG MS-SSIM"],
            "texture as similar": figures["SMGAN NPS distance"] <= figures["WGAN-VGG NPS distance"] + TEXTURE,
            "3-D over 2-D": figures["SMGAN MS-SSIM"] > figures["SMGAN 2-D MS-SSIM"] and figures["SMGAN dB"] > figures["SMGAN 2-D dB"],
        },
    )


def noise_map(have: Data) -> Found:
    """Row N06: better where it is asked for the noise than for the image; the noise that it finds knows nothing of the anatomy."""
    models = {kind: noise_gan(have, kind) for kind in ("noise", "image")}
    figures: dict[str, float | str] = {}
    for kind, model in models.items():
        figures |= scores(have, by(model), f"predicts {kind}")
    filtered = max(map(have.tuned, FILTERS), key=lambda each: mean_psnr(have.cases("test"), each))
    found: dict[str, float] = {}
    for case in have.cases("test"):
        made = restored(models["noise"], case)
        found[case.name] = abs(case.correlation(made))
        told = {
            "": found[case.name],
            " of the noise": case.correlation(case.truth),
            f" of {filtered.name}": case.correlation(filtered(case)),
        }
        told[" that its error explains"] = case.correlation_of_error(made)
        figures |= {f"correlation{what}, {case.name}": value for what, value in told.items()}
    higher = over(float(figures["predicts noise dB"]), [float(figures["predicts image dB"])])
    return Found(figures, {"noise over image": higher, "uncorrelated": max(found.values()) < CORRELATED})


def sinograms(have: Data) -> Found:
    """Row N07: backprojection of cleaned sinograms above backprojection and a filter.

    The best that could come of it, were all of the sinogram's noise found, is among the figures: an image has noise that its own
    projections do not show.
    """
    test = have.cases("test")
    ours, theirs = (
        scores(have, by(have.trained("sinogram_attention", 400, None, "bfloat16", batch=1, optimiser="muon", rate=1e-3)), "sinogram net"),
        filters(have, "image filter"),
    )
    best = {"all noise of the sinogram taken away dB": mean_psnr(test, without_projected_noise)}
    return Found({**ours, **theirs, **best}, {"over the image filter": over(ours["sinogram net dB"], [float(theirs["image filter dB"])])})


def domains(have: Data) -> Found:
    """Row N08: both domains at least 0.3 dB above either."""
    figures: dict[str, float] = {}
    for domain in ("both", "projection", "image"):
        figures |= scores(have, by(dp_resnet(have, domain)), domain)
    higher = over(figures["both dB"], [figures["projection dB"], figures["image dB"]], STEP_DB)
    return Found(figures, {"both by 0.3 dB": higher})


def loop(have: Data) -> Found:
    """Row N11: the loop stops at its target or says that it did not come there, does the same again, and looks at validation alone."""
    return Found(*tried(have))


STATEMENTS: dict[str, tuple[str, Callable[[Data], Found]]] = {
    "N01": ("CNN-DAE: PSNR at least the best filter's on the noise it was trained on, lower on unseen kinds of noise", autoencoder),
    "N02": ("RED-CNN: over the best of the six filters on held-out low-dose slices; published count", redcnn),
    "N03": ("Directional-wavelet CNN: perfect reconstruction; over CNN-DAE and over wavelet shrinkage on held-out slices", wavelets),
    "N04": ("WGAN-VGG: nearer in features than its MSE twin at a PSNR within 1.5 dB; critic gap converges; published count", features),
    "N05": ("SMGAN: MS-SSIM over WGAN-VGG at similar noise texture; 3-D over 2-D", structure),
    "N06": ("Noise-learning GAN: over its twin that predicts the image; noise map uncorrelated with anatomy (below 0.1)", noise_map),
    "N07": ("Sinogram attention net: FBP after it over FBP and the best image filter at low dose", sinograms),
    "N08": ("DP-ResNet: two domains over projections alone and images alone by at least 0.3 dB", domains),
    "N11": ("Denoise-measure-adjust loop: target met or best so far flagged; deterministic; chosen on validation, not test", loop),
}  # fmt: skip
"""What each row states, and who tries it."""


QUICK = ("N11", "N04", "N05", "N06", "N01", "N07", "N02", "N08", "N03")
"""All rows, those that take least time first: a run that is stopped has tried most of them."""


def main() -> None:
    """Try what was asked for, and print what holds."""
    parser = parser_of(__doc__, "denoise_proofs")
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    options = parser.parse_args()
    rows = sorted(rows_of(options.proof, STATEMENTS), key=QUICK.index)
    if not options.scans.is_dir():
        print(f"no real scans at {options.scans.name}: simulated heads alone")
    run = Run("denoise_proofs", ["numpy", "torch", "numba"])
    have = Data(options.folder, options.scans, options.steps)
    try_all(run, {row: (words, partial(prove, have)) for row, (words, prove) in STATEMENTS.items()}, rows, options.save)


if __name__ == "__main__":
    main()
