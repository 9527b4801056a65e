"""The report of a finished run: one HTML file that opens offline, from what the run's folder holds."""
