"""Every bad input that is known, with what must happen: `cases` are generated, `judge` runs them, docs/robustness.md lists them."""
