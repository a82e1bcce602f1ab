"""Error answers of the API, with request fields as command-line options."""

from __future__ import annotations

import json

import pytest
from bouchet_cli.client.errors import CommandError, NotReadyError, UnreachableError
from bouchet_cli.client.http import HttpStatusError
from bouchet_cli.client.problems import OPTION_NAMES, api_error, problem_message, proxy_error
from bouchet_cli.reference import reference
from bouchet_core.batch_jobs import DownloadRequest
from bouchet_core.deployments import LaunchRequest
from bouchet_core.deployments.attached import AttachRequest
from bouchet_core.images import ImageRequest
from pydantic import BaseModel

LAUNCH = "/v1/deployments"


@pytest.mark.parametrize(
    ("path", "request_type", "command", "not_options"),
    [
        (LAUNCH, LaunchRequest, "launch", set()),
        ("/v1/deployments/attach", AttachRequest, "attach", set()),
        ("/v1/models/download", DownloadRequest, "download", set()),
        # the action is part of the command
        ("/v1/images/jobs", ImageRequest, "image", {"action"}),
    ],
)
def test_every_request_field_has_an_option_of_the_command(
    path: str, request_type: type[BaseModel], command: str, not_options: set[str]
) -> None:
    fields = {name.partition(".")[0] for name in OPTION_NAMES[path]}
    assert fields == set(request_type.model_fields) - not_options
    section = reference().partition(f"\n## `bouchet {command}`\n")[2].partition("\n## ")[0]
    assert [option for option in OPTION_NAMES[path].values() if option not in section] == []


def test_problem_of_several_fields_is_one_line_of_options() -> None:
    errors = [{"field": "serve_as.0", "problem": "must be x"}, {"field": "max_len", "problem": "must be y"}]
    problem = {"detail": "serve_as.0: must be x; max_len: must be y", "errors": errors}
    assert problem_message(problem, LAUNCH) == "--as: must be x; --max-len: must be y"


def test_problem_of_a_policy_names_its_option() -> None:
    problem = {"detail": "policy.keep: must be z", "errors": [{"field": "policy.keep", "problem": "must be z"}]}
    assert problem_message(problem, LAUNCH) == "--keep: must be z"


@pytest.mark.parametrize("errors", [None, [], "odd", [{"field": "nonsense", "problem": "no such field"}]])
def test_problem_with_other_fields_is_unchanged(errors: object) -> None:
    assert problem_message({"detail": "as it is", "errors": errors}, LAUNCH) == "as it is"
    other = {"detail": "as it is", "errors": [{"field": "gpus", "problem": "x"}]}
    assert problem_message(other, "/v1/other") == "as it is"


@pytest.mark.parametrize(
    ("status", "body", "kind", "error_type"),
    [
        (404, {"detail": "no deployment 'x'", "kind": "unknown_deployment"}, "unknown_deployment", NotReadyError),
        (401, {"detail": "wrong key", "kind": "unauthorized"}, "unauthorized", UnreachableError),
        (409, {"detail": "taken", "kind": "name_taken"}, "name_taken", CommandError),
        (500, "<html>", "", CommandError),
    ],
)
def test_api_error_has_kind_and_exit_status(
    status: int, body: object, kind: str, error_type: type[CommandError]
) -> None:
    error = api_error(HttpStatusError("http://api", status, json.dumps(body).encode()))
    assert (error.kind, type(error)) == (kind, error_type)


@pytest.mark.parametrize(
    ("status", "error_type"), [(401, UnreachableError), (503, NotReadyError), (529, NotReadyError), (400, CommandError)]
)
def test_proxy_error_has_exit_status(status: int, error_type: type[CommandError]) -> None:
    for body in ({"error": {"message": "m"}}, {"error": "m"}, None):
        error = proxy_error(HttpStatusError("http://proxy", status, json.dumps(body).encode()))
        assert type(error) is error_type
        assert status == 401 or body is None or str(error) == "m"
