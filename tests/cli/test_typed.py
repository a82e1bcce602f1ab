"""A refusal speaks of options as people type them."""

from __future__ import annotations

import pytest
from bouchet_cli.client.option_names import TYPED, as_typed
from bouchet_cli.reference import reference
from bouchet_core.deployments import LaunchRequest
from bouchet_core.downloads import DownloadRequest
from bouchet_core.images import ImageRequest
from pydantic import BaseModel

LAUNCH = "/v1/deployments"


@pytest.mark.parametrize(
    ("path", "request_type", "command", "not_options"),
    [
        (LAUNCH, LaunchRequest, "launch", set()),
        ("/v1/models/download", DownloadRequest, "download", set()),
        # which action it is, the command itself says
        ("/v1/images/jobs", ImageRequest, "image", {"action"}),
    ],
)
def test_every_field_has_an_option_that_is_there(
    path: str, request_type: type[BaseModel], command: str, not_options: set[str]
) -> None:
    assert set(TYPED[path]) == set(request_type.model_fields) - not_options
    shown = reference().partition(f"\n## `bouchet {command}`\n")[2].partition("\n## ")[0]
    assert [option for option in TYPED[path].values() if option not in shown] == []


def test_a_problem_of_several_fields_is_one_line() -> None:
    errors = [{"field": "serve_as.0", "problem": "must be x"}, {"field": "max_len", "problem": "must be y"}]
    said = as_typed({"detail": "serve_as.0: must be x; max_len: must be y", "errors": errors}, LAUNCH)
    assert said == "--as: must be x; --max-len: must be y"


@pytest.mark.parametrize("errors", [None, [], "odd", [{"field": "nonsense", "problem": "no such field"}]])
def test_what_is_no_field_of_the_request_is_told_as_it_is(errors: object) -> None:
    assert as_typed({"detail": "as it is", "errors": errors}, LAUNCH) == "as it is"
    assert as_typed({"detail": "as it is", "errors": [{"field": "gpus", "problem": "x"}]}, "/v1/other") == "as it is"
