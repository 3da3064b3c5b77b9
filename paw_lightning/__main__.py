"""``python -m paw_lightning`` is ``paw-lightning``."""

from paw_lightning.cli import main

if __name__ == "__main__":
    main()
