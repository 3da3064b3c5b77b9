"""Official ALFWorld games and recordings of the reference engine; both need data that is not in the project."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import golden_records


@pytest.fixture(scope="session")
def recordings(shared: Path) -> list[dict[str, Any]]:
    """96 games, each explored at random and solved, as the reference engine answered."""
    return golden_records(shared, "alfworld_transcripts.jsonl.gz")


@pytest.fixture(scope="session")
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the splits: below ALFWORLD_DATA, else all of valid_seen and the recorded games, unpacked."""
    if "ALFWORLD_DATA" in os.environ:
        folder = Path(os.environ["ALFWORLD_DATA"])
        yield folder / "json_2.1.1" if (folder / "json_2.1.1").is_dir() else folder
        return
    archive = request.getfixturevalue("shared") / "data" / "alfworld" / "json_2.1.1.tar.xz"
    if not archive.is_file():
        pytest.skip(f"NO ALFWORLD GAMES: set ALFWORLD_DATA to the folder with json_2.1.1, or provide {archive}")
    recorded = {record["game"] for record in request.getfixturevalue("recordings")}
    folder = tmp_path_factory.mktemp("alfworld")
    with tarfile.open(archive, "r|xz") as members:
        for member in members:
            if member.name in recorded or member.name.startswith("valid_seen/"):
                members.extract(member, folder, filter="data")
    yield folder
    shutil.rmtree(folder)
