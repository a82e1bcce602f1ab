"""Other ways to log in at the demo's login node: certificates alone, a password, Kerberos tickets, Duo's SMS.

sshd gets a file of its own before the demo's, and reads it without ending the connections that are open.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.cluster.duo_like import SENT, SMS_PASSCODE
from tests.stack.clusters.flavours import USER, as_root, put_file
from tests.stack.clusters.installation import BRIDGE
from tests.stack.clusters.person import ALIAS, LoginRelay
from tests.stack.harness import Stack
from tests.stack.ssh.own_tunnel import LOGIN_NODE
from tests.waiting import wait_for

SERVICE, FOLDER = "demo-login", "/etc/lab"
# before 10-demo.conf: the first value of an option counts
OWN_CONFIG, PAM, DEMO_PAM = "/etc/ssh/sshd_config.d/05-login.conf", "/etc/pam.d/sshd", "/usr/share/demo/pam-login"
PASSWORD, REALM, KDC_PORT = "correct horse", "LAB.TEST", 88
KDC_CONF = f"""[kdcdefaults]
 kdc_listen = 0.0.0.0:{KDC_PORT}
 kdc_tcp_listen = 0.0.0.0:{KDC_PORT}
[realms]
 {REALM} = {{
  database_name = {FOLDER}/principal
  key_stash_file = {FOLDER}/stash
  acl_file = {FOLDER}/acl
 }}
"""
# the relay to the KDC knows TCP alone
KRB5_CONF = f"""[libdefaults]
 default_realm = {REALM}
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
"""
START_KDC = f"""
export KRB5_KDC_PROFILE={FOLDER}/kdc.conf
kdb5_util create -s -r {REALM} -P master
kadmin.local -q 'addprinc -pw "{PASSWORD}" {USER}'
kadmin.local -q 'addprinc -randkey host/{BRIDGE}'
kadmin.local -q 'ktadd -k {FOLDER}/keytab host/{BRIDGE}'
krb5kdc -P {FOLDER}/pid
"""


@dataclass(frozen=True)
class LoginKind:
    """What sshd accepts. methods: what it offers to who has nothing but the demo's key; accepted: in its log.

    options: of the person's ssh configuration; answers: texts of a login, each with what the person types there.
    """

    name: str
    sshd: str
    methods: str
    accepted: str
    pam_auth: str = ""
    has_key: bool = False
    options: str = ""
    answers: tuple[tuple[str, str], ...] = ()


NO_KEYS = "PubkeyAuthentication no\nKbdInteractiveAuthentication no\n"
CERTIFICATES = LoginKind(
    "certificates",
    f"TrustedUserCAKeys {FOLDER}/ca.pub\nAuthorizedKeysFile none\n",
    methods="publickey",
    accepted=r"publickey for \S+ from .*-CERT",
    has_key=True,
)
WITH_PASSWORD = LoginKind(
    "password",
    f"{NO_KEYS}PasswordAuthentication yes\nAuthenticationMethods password\n",
    methods="password",
    accepted="password for",
    pam_auth="auth required pam_unix.so",
    answers=(("'s password: ", PASSWORD),),
)
TICKETS = LoginKind(
    "tickets",
    f"{NO_KEYS}GSSAPIAuthentication yes\nGSSAPIStrictAcceptorCheck no\nAuthenticationMethods gssapi-with-mic\n",
    methods="gssapi-with-mic",
    accepted="gssapi-with-mic for",
    options="GSSAPIAuthentication yes",
)
DUO_SMS = LoginKind(
    "duo",
    "AuthenticationMethods publickey,keyboard-interactive:pam\n",
    methods="keyboard-interactive",
    accepted="keyboard-interactive/pam for",
    has_key=True,
    answers=(("Passcode or option (1-3): ", "3"), (SENT, ""), ("Passcode or option (1-3): ", SMS_PASSCODE)),
)
LOGIN_KINDS = (CERTIFICATES, WITH_PASSWORD, TICKETS, DUO_SMS)


@contextlib.contextmanager
def login_kind(stack: Stack, kind: LoginKind) -> Iterator[None]:
    """Let sshd accept that kind of login alone; the demo's own in the end."""
    shadow = as_root(stack, SERVICE, f"getent shadow {USER} | cut -d: -f2").strip()
    as_root(stack, SERVICE, f"rm -rf {FOLDER}; install -d -m 0755 {FOLDER}; cp -p /etc/krb5.conf {FOLDER}/krb5.before")
    try:
        put_file(stack, SERVICE, OWN_CONFIG, kind.sshd)
        if kind.pam_auth:
            lines = as_root(stack, SERVICE, f"grep -v '^auth' {DEMO_PAM}")
            put_file(stack, SERVICE, PAM, f"{kind.pam_auth}\n{lines}")
            as_root(stack, SERVICE, f"printf '%s:%s\n' {USER} '{PASSWORD}' | chpasswd --crypt-method SHA512")
        read_again(stack)
        yield
    finally:
        as_root(stack, SERVICE, f"[ ! -e {FOLDER}/pid ] || kill $(cat {FOLDER}/pid)")
        as_root(stack, SERVICE, f"cp -p {FOLDER}/krb5.before /etc/krb5.conf; rm -rf {FOLDER} {OWN_CONFIG}")
        as_root(stack, SERVICE, f"install -m 0644 {DEMO_PAM} {PAM}; usermod --password '{shadow}' {USER}")
        read_again(stack)


def read_again(stack: Stack) -> None:
    """Let sshd read its configuration again, and wait until it listens."""
    as_root(stack, SERVICE, "/usr/sbin/sshd -t; kill -HUP $(cat /run/sshd.pid)")
    listens = ["sh", "-c", "ss -Hltn sport = :22 | grep -q ."]
    wait_for(lambda: stack.on(SERVICE, listens, user="root").status == 0, 30)


@contextlib.contextmanager
def credentials(stack: Stack, kind: LoginKind, folder: Path, person: Mapping[str, str]) -> Iterator[None]:
    """Give the person what that kind of login wants beside answers: a certificate, or a ticket of a real KDC."""
    if kind is CERTIFICATES:
        sign_key(stack, folder)
    if kind is not TICKETS:
        yield
        return
    start_kdc(stack)
    with LoginRelay((LOGIN_NODE, KDC_PORT)) as relay:
        realms = f"[realms]\n {REALM} = {{\n  kdc = {BRIDGE}:{relay.port}\n }}\n"
        Path(person["KRB5_CONFIG"]).write_text(KRB5_CONF + realms)
        assert shutil.which("kinit"), "kinit is not installed; `make tools` installs it where it can"
        subprocess.run(
            ["kinit", USER], env={**os.environ, **person}, input=f"{PASSWORD}\n", text=True, check=True, timeout=60
        )
        yield


def sign_key(stack: Stack, folder: Path) -> None:
    """Make a CA that the login node trusts, and sign the person's key for a day."""
    key, ca = folder / "id_ed25519", folder / "ca"
    keygen("-t", "ed25519", "-N", "", "-f", str(ca))
    key.with_suffix(".pub").write_text(keygen("-y", "-f", str(key)))
    keygen("-s", str(ca), "-I", "person", "-n", USER, "-V", "-1h:+1d", f"{key}.pub")
    put_file(stack, SERVICE, f"{FOLDER}/ca.pub", ca.with_suffix(".pub").read_text())


def keygen(*arguments: str) -> str:
    """Run ssh-keygen."""
    done = subprocess.run(["ssh-keygen", "-q", *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def start_kdc(stack: Stack) -> None:
    """Start a KDC on the login node, with the person and the login node in its realm."""
    put_file(stack, SERVICE, f"{FOLDER}/kdc.conf", KDC_CONF)
    put_file(stack, SERVICE, "/etc/krb5.conf", f"{KRB5_CONF} default_keytab_name = FILE:{FOLDER}/keytab\n")
    as_root(stack, SERVICE, START_KDC)


def kerberos_environ(folder: Path) -> dict[str, str]:
    """Return where a person's krb5.conf and tickets are."""
    return {"KRB5_CONFIG": f"{folder}/krb5.conf", "KRB5CCNAME": f"FILE:{folder}/tickets"}


def offered_methods(person: Mapping[str, str]) -> str:
    """Return the methods that are left to a person who types nothing, as ssh prints them; '' after a login."""
    argv = ["ssh", "-o", "BatchMode=yes", ALIAS, "true"]
    done = subprocess.run(
        argv, env={**os.environ, **person}, capture_output=True, text=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    found = re.search(r"Permission denied \((.*)\)", done.stderr)
    assert found or done.returncode == 0, done.stderr
    return found[1] if found else ""
