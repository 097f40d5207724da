"""Every test here has a key folder of its own: the user's key is neither read nor made."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_key_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder
