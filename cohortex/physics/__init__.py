"""Forward models of scanners: how raw data come about, and the operators and noise of each."""
