"""Datasets and tables of empty files, of which cohorts are made."""


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def bids(folder, subjects, suffixes=("T1w",)):
    for subject in subjects:
        for suffix in suffixes:
            touch(folder / f"sub-{subject}" / "anat" / f"sub-{subject}_{suffix}.nii.gz")
    return folder


def table(tmp_path, text, name="cohort.tsv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


HEADER = "subject\tmodality\tpath\n"


def state(folder):
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.tsv")}
