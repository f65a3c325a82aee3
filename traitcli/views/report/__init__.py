"""The report: what was seen, built and run, as one HTML page, as data, or as pictures."""
