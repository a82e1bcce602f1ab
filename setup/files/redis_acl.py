"""Who may do what in Redis: a user a service, with the keys and commands that its code uses, and nothing else.

`make up` makes Redis' ACL file from USERS; it holds hashes of the passwords. The tests start their Redis with the same
users, so that what a service's code needs and this file lacks fails there, with an error that names the command.

To let a service use another key, add one line to its `read`, `append` or `change`, without the prefix `bouchet:`; `*`
means any text. To add a service, add it to USERS, give its settings class `redis_user = "NAME"`, and have
compose.yaml mount the secret `redis_NAME` as `redis_password` in its container alone.

Redis lets a command use a key by the kind of access: HGET and XREAD need `read`; XADD needs `append`; HINCRBY and EVAL
(for every key that the script is given) need `change`, which is both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "bouchet:"
# keys of the task queue, which have a prefix of their own
TASKS = "rq:*"
TASK_CHANNELS = "rq:pubsub:*"

CONNECT = ("ping",)
READ_RECORDS = (
    "get", "exists", "hget", "hgetall", "hkeys", "hvals", "smembers", "zrange", "zrevrange", "zrevrangebyscore",
)  # fmt: skip
READ_STREAMS = ("xrange", "xread", "xrevrange")
# the last six are what the scripts of the store run
CHANGE_RECORDS = (
    "eval", "set", "del", "hset", "hsetnx", "hdel", "sadd", "srem", "xadd", "zadd", "zrem", "zremrangebyrank",
)  # fmt: skip
TRANSACTIONS = ("multi", "exec", "discard", "watch", "unwatch")
# what RQ runs in a client that sends tasks, and in a worker beside that
SEND_TASKS = (
    *TRANSACTIONS, "evalsha", "script|load", "script|exists", "expire", "persist", "hexists", "hincrby", "lpop", "lpos",
    "lpush", "lrange", "lrem", "llen", "publish", "rpush", "scard", "xlen", "zcard", "zrangebyscore", "zscore",
    "zremrangebyscore",
)  # fmt: skip
RUN_TASKS = (
    "blmove", "blpop", "brpop", "lmove", "rename", "hincrbyfloat", "subscribe", "psubscribe", "unsubscribe",
    "punsubscribe", "info", "client|list", "client|info", "client|setname",
)  # fmt: skip

# of a stream as a consumer group
TAKE_ENTRIES = ("xreadgroup", "xack", "xdel", "xgroup|create")

DEPLOYMENTS = ("deployment:*", "all", "live", "ended", "names", "slots", "targets", "events", "once:*")
# downloads and image builds
BATCH_JOBS = ("download*", "image*", "disk", "disk-asked")


# A login without a name is refused. The default user keeps its rights, because Redis reads its own append-only file as
# that user: without them it leaves out every transaction in the file, and so loses records, at each start.
DEFAULT_USER = "user default reset off ~* &* +@all"


@dataclass(frozen=True)
class RedisUser:
    """The rights of one user. Keys are patterns; `tasks`: also the keys and channels of the task queue."""

    commands: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    append: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    tasks: bool = False

    def rules(self) -> list[str]:
        """Return the rules as Redis writes them, in the order in which it applies them."""
        keys = [f"{kind}~{PREFIX}{key}" for kind, keys in self._keys() for key in keys]
        # scripts are given an empty name for a key that they do not use
        keys += ["~"] if "eval" in self.commands else []
        keys += [f"~{TASKS}", f"&{TASK_CHANNELS}"] if self.tasks else []
        commands = [f"+{command}" for command in dict.fromkeys((*CONNECT, *self.commands))]
        return ["resetchannels", "resetkeys", "-@all", *keys, *commands]

    def _keys(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("%R", self.read), ("%W", self.append), ("", self.change)


USERS: Mapping[str, RedisUser] = {
    "gateway": RedisUser(commands=("hget", "xadd"), read=("targets",), append=("tunnel",)),
    "worker": RedisUser(
        commands=(*READ_RECORDS, *READ_STREAMS, *CHANGE_RECORDS, *SEND_TASKS, *RUN_TASKS),
        read=("load", "demand-log", "watched", "awaited"),
        append=("points", "ledger:jobs"),
        change=(*DEPLOYMENTS, *BATCH_JOBS, "orphans", "epoch", "outage", "lease:*", "heartbeat:*", "demand", "figures",
            "ledger:measured", "notices", "notices:known"),
        tasks=True,
    ),
    "api": RedisUser(
        commands=(*READ_RECORDS, *READ_STREAMS, *CHANGE_RECORDS, *SEND_TASKS, *TAKE_ENTRIES, "info"),
        read=(
            "orphans", "outage", "tunnel", "heartbeat:*", "figures", "load", "points", "live-requests",
            "notifier:outbox", "notifier:sent", "notifier:status",
        ),
        append=("watched", "awaited", "notifier:tests"),
        change=(*DEPLOYMENTS, *BATCH_JOBS, "access:*", "ledger:requests", "ledger:jobs"),
        tasks=True,
    ),
    "proxy": RedisUser(
        commands=(
            "smembers", "hget", "hgetall", "xread", "xrevrange", "info", "get", "set", "xadd", "hset",
        ),
        read=("live", "deployment:*", "events", "access:keys", "access:changes", "watched"),
        append=("demand", "demand-log", "live-requests", "ledger:requests"),
        change=("load",),
    ),
    # it sends to the internet: it reads no record, and nothing that a client sent
    "notifier": RedisUser(
        commands=("get", "set", "hgetall", "hset", "hdel", "xadd", "xread", "xrevrange", "multi", "exec"),
        read=("notices", "tunnel", "notifier:tests"),
        change=("notifier:position", "notifier:outbox", "notifier:sent", "notifier:status", "heartbeat:notifier"),
    ),
    # the health check of Redis' own container
    "health": RedisUser(),
}  # fmt: skip


def render_acl(passwords: Mapping[str, str]) -> str:
    """Render the ACL file: a line a user, who logs in with that password."""
    lines = [DEFAULT_USER]
    for name, user in USERS.items():
        digest = hashlib.sha256(passwords[name].encode()).hexdigest()
        lines.append(f"user {name} reset on #{digest} {' '.join(user.rules())}")
    return "\n".join(lines) + "\n"
