"""A stand-in for Duo's PAM module: the menu, the passcode, the push and the SMS that a login node offers.

Loaded by pam_python, which passes the PAM handle. The passcode below logs in by code; option 1 is a push that is
approved after a second; option 3 sends passcodes and shows the menu again, and what was sent logs in then. Everything
else is refused; a login has three answers.
"""

import time
from typing import Any

PASSCODE = "1234567"
# on the phone, once option 3 was chosen in this login
SMS_PASSCODE = "2468013"
PUSH_SECONDS = 1.0
ATTEMPTS = 3
MENU = """Duo two-factor login for {user}

Enter a passcode or select one of the following options:

 1. Duo Push to XXX-XXX-1234
 2. Phone call to XXX-XXX-1234
 3. SMS passcodes to XXX-XXX-1234{hint}

Passcode or option (1-3): """
HINT = " (next code starts with: {digit})"
SENT = "New SMS passcodes sent."


def _ask(pamh: Any, user: str, sent: bool) -> str:
    menu = MENU.format(user=user, hint=HINT.format(digit=SMS_PASSCODE[0]) if sent else "")
    answer: str = pamh.conversation(pamh.Message(pamh.PAM_PROMPT_ECHO_ON, menu)).resp
    return answer


def _approve_push(pamh: Any) -> None:
    time.sleep(PUSH_SECONDS)
    pamh.conversation(pamh.Message(pamh.PAM_TEXT_INFO, "Success. Logging you in..."))


def pam_sm_authenticate(pamh: Any, flags: int, argv: list[str]) -> int:
    user, sent = pamh.get_user(None), False
    for _ in range(ATTEMPTS):
        answer = _ask(pamh, user, sent)
        if answer == PASSCODE or (sent and answer == SMS_PASSCODE):
            return int(pamh.PAM_SUCCESS)
        if answer == "1":
            _approve_push(pamh)
            return int(pamh.PAM_SUCCESS)
        if answer == "3":
            pamh.conversation(pamh.Message(pamh.PAM_TEXT_INFO, SENT))
            sent = True
    return int(pamh.PAM_AUTH_ERR)


def pam_sm_setcred(pamh: Any, flags: int, argv: list[str]) -> int:
    return int(pamh.PAM_SUCCESS)
