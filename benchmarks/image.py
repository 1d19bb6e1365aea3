"""Does containers/Dockerfile build, and does what it builds give the results of this environment? Without a registry of images.

    python -m benchmarks.image [--folder DIR] [--mirror http://deb.debian.org/debian]

As root, with Debian's packages ``buildah`` and ``debootstrap``. In the place of the base image, ``python:3.11-slim``, stands a Debian 12
with its own Python 3.11, made by debootstrap; all else are the file's own steps, as buildah runs them (in a chroot, no daemon). Settings of
pip that stand in this environment (``PIP_...``: a mirror, a certificate, wheels) hold in there, too; a folder that ``PIP_FIND_LINKS`` names
is shown to it.

Then, in the image: its packages against requirements.lock, and a run of the workflow on two simulated subjects as another user than root,
against the same run in this environment, byte by byte (times left out).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.workflow import ROOT, command, environment
from tests.workflow import digests, write_cohort

BASE, IMAGE = "docker.io/library/python:3.11-slim", "localhost/cohortex"
INCLUDED = "python3,python3-pip,python-is-python3,ca-certificates"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
SETTINGS = ("batch_size=2", "stages=[acquire,preprocess,denoise,export]")
USER = "1234:1234"


class Buildah:
    """buildah with its images in a folder of this benchmark."""

    def __init__(self, folder: Path):
        self.words = ["buildah", "--storage-driver", "vfs", "--root", str(folder / "images"), "--runroot", str(folder / "run")]
        self.shown = [f"--volume={link}:{link}:ro" for link in os.environ.get("PIP_FIND_LINKS", "").split() if Path(link).is_dir()]

    def __call__(self, *words: str, tell: bool = False) -> str:
        """Run it and return what it said; `tell` shows it instead."""
        done = subprocess.run([*self.words, *words], text=True, stdout=None if tell else subprocess.PIPE, check=True)
        return (done.stdout or "").strip()

    def run(self, container: str, *words: str, options: tuple[str, ...] = ()) -> str:
        """Run a command in a container."""
        return self("run", "--isolation=chroot", *options, container, "--", *words)


def make_base(buildah: Buildah, folder: Path, mirror: str) -> None:
    """Make the stand-in for the base image."""
    tree = folder / "base"
    if not (tree / "usr/bin/pip").exists():
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={INCLUDED}", "bookworm", str(tree), mirror], check=True)
    shutil.copy(Path("/") / CERTIFICATES, tree / CERTIFICATES)
    container = buildah("from", "scratch")
    buildah("copy", "--quiet", container, str(tree), "/")
    # Debian's Python wants packages of its own only; that of the base image takes any
    settings = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    settings |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    buildah("config", *(f"--env={name}={value}" for name, value in settings.items()), container)
    buildah("commit", "--quiet", "--rm", container, BASE)


def pins(text: str) -> dict[str, str]:
    """Return name and version of what a list of packages pins; a local build (``+cpu``) is that version."""
    found = re.findall(r"^([\w.-]+)==([^\s+]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def main() -> None:
    """Build, compare, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the images (about 8 GB); kept, so that a second run is quicker")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    given = parser.parse_args()
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise SystemExit(f"nothing was built: {' and '.join(missing)} not installed" if missing else "nothing was built: not root")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        buildah = Buildah(folder)
        make_base(buildah, folder, given.mirror)
        began = time.monotonic()
        file = str(ROOT / "containers" / "Dockerfile")
        words = ["--isolation=chroot", "--pull-never", "--format=docker", *buildah.shown, "--file", file, "--tag", IMAGE]
        buildah("bud", *words, str(ROOT), tell=True)
        build_s = time.monotonic() - began
        container = buildah("from", "--pull-never", IMAGE)
        there, locked = pins(buildah.run(container, "pip", "freeze")), pins((ROOT / "requirements.lock").read_text())
        wrong = {name: (version, there.get(name, "")) for name, version in locked.items() if there.get(name) != version}
        for name, (version, found) in wrong.items():
            print(f"{name}: the lock has {version}, the image {found or 'none'}")

        data = folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        table = write_cohort(data, ["1", "2"])
        for path in (data, *data.rglob("*")):
            os.chown(path, *map(int, USER.split(":")))
        workflow = ["snakemake", "--snakefile", "/opt/cohortex/Snakefile", "--profile", "/opt/cohortex/profiles/local", "--cores", "2"]
        options = (f"--user={USER}", f"--volume={data}:/data", "--workingdir=/data", "--env=HOME=/tmp")
        buildah.run(container, *workflow, "--config", "input=/data/cohort.tsv", *SETTINGS, options=options)
        here = folder / "here"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        subprocess.run([*command(), "--config", f"input={table}", *SETTINGS], cwd=here, env=environment(), check=True)
        sides = [digests(each / "results") for each in (data, here)]
        differ = sorted(name for name in sides[0].keys() | sides[1].keys() if sides[0].get(name) != sides[1].get(name))
        print(f"{len(sides[0])} files of results, {len(differ)} differ: {', '.join(differ[:10])}")
        buildah("rm", container)
    print(f"FIGURE image_built=1 build_s={build_s:.0f} image_pins={len(locked)} pins_differ={len(wrong)} results_differ={len(differ)}")
    if wrong or differ:
        sys.exit(1)


if __name__ == "__main__":
    main()
