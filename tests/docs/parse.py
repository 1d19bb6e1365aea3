"""Says whether programs of this repository take their arguments, without running them: lists as JSON on stdin.

Each module is begun as a program, up to the point where its arguments were read.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from pathlib import Path


class ParsedError(BaseException):
    """The arguments were read, and nothing was done."""


def main() -> None:
    """Print what each command minds, as a list of sentences."""
    read = argparse.ArgumentParser.parse_args

    def stop(self, arguments=None, namespace=None):
        read(self, arguments, namespace)
        raise ParsedError

    argparse.ArgumentParser.parse_args = stop  # type: ignore[method-assign]
    minded = []
    for module, *arguments in json.load(sys.stdin):
        path = Path(*module.split("."))
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        if not source.is_file() or "parse_args" not in source.read_text(encoding="utf-8"):
            minded.append(f"{module} is no program that reads arguments")
            continue
        sys.argv = [str(source), *arguments]
        try:
            runpy.run_module(module, run_name="__main__")
        except ParsedError:
            continue
        except SystemExit as error:
            minded.append(f"python -m {' '.join([module, *arguments])} ends with {error.code}")
        else:
            minded.append(f"{module} did not read its arguments")
    json.dump(minded, sys.stdout)


if __name__ == "__main__":
    main()
