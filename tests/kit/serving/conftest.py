"""An export and a server that the tests of this folder share."""

import pytest
from served import served
from streams import listener

from kit.model.export import save_export


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "export"
    save_export(listener(), folder, {})
    return folder


@pytest.fixture(scope="session")
def server(export):
    with served(export, "serving.streams=4") as running:
        yield running
