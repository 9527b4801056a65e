"""The demo: the whole path on digits, once without and once with differential privacy, from embedded run files."""
