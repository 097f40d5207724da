"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.drawn import begin_anew


def shared_or_none() -> Path | None:
    """The folder with Caffe's goldens and real nets: NETC_SHARED, or `shared` beside the repo."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("NETC_SHARED", default))
    return folder if (folder / "caffe").is_dir() else None


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """What a test draws does not depend on which tests ran before."""
    begin_anew()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; the test is skipped where it is absent."""
    folder = shared_or_none()
    if folder is None:
        pytest.skip("the shared folder is not here; NETC_SHARED names it")
    return folder


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys and caches of the tests are their own."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
