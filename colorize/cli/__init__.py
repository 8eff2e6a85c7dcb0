"""The command line: composing a configuration, `--help`, sweeps."""
