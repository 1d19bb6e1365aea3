"""What the head process of a run does beside Snakemake: one owner an output, checks before any job, a word at the end.

Imported at every parse of the Snakefile, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cohortex.errors import BadInput, Refused
from cohortex.owner import alive, myself

BYTES_A_BATCH = 6.0
"""Folders of volumes of a batch that exist at once (a stage's input, its running folder, its output), in float32 volumes."""


def owner_file(config: Mapping[str, Any]) -> Path:
    """Return the file that names the run which owns the output folder."""
    return Path(config["output"]) / ".cohortex" / "owner.json"


def claim(config: Mapping[str, Any]) -> None:
    """Make this process the owner of the output folder.

    Raises
    ------
    Refused
        When another run owns it; the sentence names host and process.
    """
    file = owner_file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = myself()
    for _ in range(2):
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
        except FileExistsError:
            try:
                owner = json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, FileNotFoundError):
                owner = {}
            living = alive(owner) if owner else False
            if living is False or owner.get("pid") == mine["pid"]:
                file.unlink(missing_ok=True)
                continue
            who = f"process {owner.get('pid')} on {owner.get('host')}"
            hint = "wait for it, or give another output" if living else f"if it is gone, delete .cohortex/{file.name} in the output"
            raise Refused(f"the output {config['output']} belongs to another run ({who}): {hint}") from None
        with os.fdopen(descriptor, "w") as handle:
            handle.write(json.dumps(mine))
        return
    raise Refused(f"the output {config['output']} is being claimed by another run at this moment: try again")


def release(config: Mapping[str, Any]) -> None:
    """Give the output folder back if this process owns it."""
    file = owner_file(config)
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    if owner.get("host") == socket.gethostname() and owner.get("pid") == os.getpid():
        file.unlink(missing_ok=True)


def model_params(weights: Mapping[str, str]) -> str:
    """Return the models of a stage as one canonical string: name to folder and sha256 of the weights.

    The sha256 is the one that the card names (it is held against the file before any job and again when the model is
    loaded). A model that the workflow trains has none here, or every run after its training would start again.
    """
    models = {}
    for name, folder in weights.items():
        sha256 = ""
        if name != "train":
            try:
                card = (Path(folder) / "card.yaml").read_text(encoding="utf-8")
            except OSError:
                card = ""
            match = re.search(r"^sha256: *['\"]?([0-9a-f]{64})", card, re.MULTILINE)
            sha256 = match.group(1) if match else ""
        models[name] = {"folder": folder, "sha256": sha256}
    return json.dumps(models, sort_keys=True, separators=(",", ":"))


def preflight(config: Mapping[str, Any], basedir: str) -> None:
    """Check models and disk before any job.

    Raises
    ------
    Refused
        With a sentence that names the model folder or the space that is missing.
    """
    from cohortex.cohort import batch_sizes
    from cohortex.config import resolve_weights
    from cohortex.stages import STAGES

    for stage in config["stages"]:
        if STAGES[stage].learned:
            for name, folder in resolve_weights(config.get(stage, {}), stage, config["work"], basedir).items():
                if name != "train":
                    from cohortex.models.folder import read_model

                    card, _ = read_model(Path(folder))
                    if card["task"] != stage:
                        raise Refused(
                            f"{stage}: weights: {name} is a model for {card['task']}, not for {stage}; name one of another folder."
                        )
    sizes = batch_sizes(config["work"])
    if sizes:
        needed_mb = BYTES_A_BATCH * max(size.total_mb for size in sizes.values())
        free_mb = shutil.disk_usage(config["work"]).free / 1e6
        if needed_mb > free_mb:
            raise Refused(
                f"the disk of the work folder has {free_mb:.0f} MB free, one batch needs about {needed_mb:.0f} MB: "
                "free some, give another work folder, or lower batch_size"
            )


def sweep_run(config: Mapping[str, Any]) -> None:
    """After a run that went through: remove the running folders, which only a killed run needs."""
    shutil.rmtree(Path(config["work"]) / ".running", ignore_errors=True)


def say_what_went_wrong(config: Mapping[str, Any], basedir: str) -> None:
    """After a failed run: make the report from the records that exist if the run could not, and end with one sentence."""
    from cohortex.report.page import write_report
    from cohortex.verdict import verdict

    work, results, stages = Path(config["work"]), Path(config["output"]), list(config["stages"])
    try:
        if not (results / "report" / "index.html").is_file():
            write_report(work, results, config, stages)
        _, sentence = verdict(work, config, stages)
    except (OSError, BadInput) as error:
        sentence = f"no report could be made ({type(error).__name__}); see the logs under {work / 'logs'}"
    print(f"cohortex: {sentence}", file=sys.stderr)  # noqa: T201
