"""The command: ``lossrag`` and ``python -m lossrag`` alike."""

from lossrag.experiments.cli import main

if __name__ == "__main__":
    main()
