"""The framing table as pytest items: one per case, all feedings, one server."""
import pytest

from framing import run
from framing.feeder import Feeder
from framing.table import CASES


@pytest.fixture(scope="module")
def feeder():
    with run.start() as server:
        one = Feeder(server.port)
        yield one
        one.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_framing(feeder, case):
    wrong = feeder.run(case)
    assert not wrong, "%s: %d feedings wrong, first: %s: %s" % (
        case.rule, len(wrong), *wrong[0])
