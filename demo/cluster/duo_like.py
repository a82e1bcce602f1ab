"""A stand-in for Duo's PAM module: the menu, the passcode and the push that a login node shows.

Loaded by pam_python, which passes the PAM handle. Only the passcode below logs in by code; option 1 is a
push that is approved after a second; everything else is refused, and three refusals end the login.
"""

import time
from typing import Any

PASSCODE = "1234567"
PUSH_SECONDS = 1.0
ATTEMPTS = 3
MENU = """Duo two-factor login for {user}

Enter a passcode or select one of the following options:

 1. Duo Push to XXX-XXX-1234
 2. Phone call to XXX-XXX-1234

Passcode or option (1-2): """


def _ask(pamh: Any, user: str) -> str:
    answer: str = pamh.conversation(pamh.Message(pamh.PAM_PROMPT_ECHO_ON, MENU.format(user=user))).resp
    return answer


def _approve_push(pamh: Any) -> None:
    time.sleep(PUSH_SECONDS)
    pamh.conversation(pamh.Message(pamh.PAM_TEXT_INFO, "Success. Logging you in..."))


def pam_sm_authenticate(pamh: Any, flags: int, argv: list[str]) -> int:
    user = pamh.get_user(None)
    for _ in range(ATTEMPTS):
        answer = _ask(pamh, user)
        if answer == PASSCODE:
            return int(pamh.PAM_SUCCESS)
        if answer == "1":
            _approve_push(pamh)
            return int(pamh.PAM_SUCCESS)
    return int(pamh.PAM_AUTH_ERR)


def pam_sm_setcred(pamh: Any, flags: int, argv: list[str]) -> int:
    return int(pamh.PAM_SUCCESS)
