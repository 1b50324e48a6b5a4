"""Run the command line as ``python -m zoo_core``."""

from zoo_core.cli import main

if __name__ == "__main__":  # a worker process imports this module again
    main()
