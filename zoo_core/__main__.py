"""Run the command line as ``python -m zoo_core``."""

from zoo_core.cli import main

main()
