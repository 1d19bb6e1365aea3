"""Judge whether too much of the cohort was set aside."""

import json
from pathlib import Path

from cohortex.clocks import heed_clocks
from cohortex.publish import write_text
from cohortex.verdict import verdict

config = json.loads(snakemake.params.config)
heed_clocks(snakemake.input, Path(config["work"]))
fine, sentence = verdict(Path(config["work"]), config, config["stages"])
if not fine:
    raise SystemExit(sentence)
print(sentence)
write_text(Path(snakemake.output[0]), sentence + "\n")
