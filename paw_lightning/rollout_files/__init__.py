"""A run's rollouts as files: gzip, JSON lines, a header and then one line for each episode. Knows no torch.

``read(path)`` gives what a file holds, ``rollout_files(run)`` the files of a run; docs/rollout_files.md says what each
field means.
"""

from paw_lightning.rollout_files.reading import read, read_header, rollout_files, train_files
from paw_lightning.rollout_files.records import Header, RecordedEpisode, RecordedTurn, RolloutFile
from paw_lightning.rollout_files.writing import write

__all__ = [
    "Header",
    "RecordedEpisode",
    "RecordedTurn",
    "RolloutFile",
    "read",
    "read_header",
    "rollout_files",
    "train_files",
    "write",
]
