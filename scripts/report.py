"""Write the report on the whole cohort."""

import json
from pathlib import Path

from cohortex.clocks import heed_clocks
from cohortex.io.dataset import write_dataset
from cohortex.report.page import write_report

config = json.loads(snakemake.params.config)
heed_clocks(snakemake.input, Path(config["work"]))
write_report(Path(config["work"]), Path(config["output"]), config, config["stages"])
write_dataset(config["output"], config)
