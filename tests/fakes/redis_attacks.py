"""What each service's user must not do in Redis, as commands: tried on a local Redis, and from its own container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Command = Sequence[str]

TOUCH = "return redis.call('HSET', 'bouchet:targets', '0', '{}')"
DECLARED = "return redis.call('HSET', KEYS[1], '0', '{}')"
# for every user: what empties or stops Redis, shows others' passwords or commands, or makes new users
ADMINISTRATION: Sequence[Command] = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SHUTDOWN", "NOSAVE"),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "default", "on", "nopass", "+@all"),
    ("ACL", "LOG"),
    ("MONITOR",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("SAVE",),
    ("BGREWRITEAOF",),
    ("REPLICAOF", "203.0.113.7", "6379"),
    ("MODULE", "LOAD", "/tmp/x.so"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "FLUSH"),
    ("SWAPDB", "0", "1"),
    ("DUMP", "bouchet:targets"),
    ("RESTORE", "bouchet:targets", "0", "x"),
    ("MIGRATE", "203.0.113.7", "6379", "bouchet:targets", "0", "1"),
    ("COPY", "bouchet:targets", "bouchet:ledger:requests"),
    ("SELECT", "1"),
)
QUEUE: Sequence[Command] = (
    ("RPUSH", "rq:queue:tasks", "x"),
    ("LPUSH", "rq:queue:tasks", "x"),
    ("HSET", "rq:job:x", "data", '["subprocess.getoutput",null,["id"],{}]'),
    ("HGETALL", "rq:job:x"),
    ("SADD", "rq:queues", "rq:queue:tasks"),
    ("PUBLISH", "rq:pubsub:x", '{"command":"shutdown"}'),
)
TARGETS: Sequence[Command] = (("HSET", "bouchet:targets", "0", '{"node":"203.0.113.7","port":443}'),)
RECORDS: Sequence[Command] = (
    ("HSET", "bouchet:deployment:x", "version", "1"),
    ("DEL", "bouchet:deployment:x"),
    ("SADD", "bouchet:live", "x"),
    ("HSET", "bouchet:names", "bouchet-x", "x"),
    ("HSET", "bouchet:slots", "0", "x"),
    ("XADD", "bouchet:events", "*", "deployment", "x"),
    ("SET", "bouchet:once:x", "x"),
    ("HSET", "bouchet:download:x", "version", "1"),
    ("HSET", "bouchet:image:x", "version", "1"),
    ("SET", "bouchet:disk", "{}"),
)
READ_RECORDS: Sequence[Command] = (
    ("HGET", "bouchet:deployment:x", "body"),
    ("SMEMBERS", "bouchet:live"),
    ("XREAD", "STREAMS", "bouchet:events", "0"),
)
WORKERS_OWN: Sequence[Command] = (
    ("SET", "bouchet:lease:reconcile", "x"),
    ("SET", "bouchet:heartbeat:worker", "1"),
    ("SET", "bouchet:outage", "{}"),
    ("SET", "bouchet:orphans", "[]"),
    ("SET", "bouchet:epoch", "x"),
)
CHANGE_KEYS: Sequence[Command] = (
    ("HSET", "bouchet:access:keys", "mallory", "{}"),
    ("HDEL", "bouchet:access:keys", "alice"),
    ("XADD", "bouchet:access:changes", "*", "name", "x"),
)
READ_KEYS: Sequence[Command] = (("HGETALL", "bouchet:access:keys"), ("XREAD", "STREAMS", "bouchet:access:changes", "0"))
TUNNEL: Sequence[Command] = (("XADD", "bouchet:tunnel", "*", "body", "{}"),)
SUMS: Sequence[Command] = (("HINCRBY", "bouchet:usage:sum:0", "key|alice|requests", "1"),)
USAGE: Sequence[Command] = (("XADD", "bouchet:ledger:requests", "*", "key", "x"), *SUMS)
MEASURES: Sequence[Command] = (("HSET", "bouchet:ledger:measured", "bouchet-x", "{}"),)
JOB_ENTRIES: Sequence[Command] = (("XADD", "bouchet:ledger:jobs", "*", "body", "{}"),)
READ_USAGE: Sequence[Command] = (("HGETALL", "bouchet:usage:sum:0"), ("XREVRANGE", "bouchet:ledger:requests", "+", "-"))
LOAD: Sequence[Command] = (("SET", "bouchet:load", "{}"),)
DEMAND: Sequence[Command] = (("HSET", "bouchet:demand", "x", "1"),)
NOTICES: Sequence[Command] = (
    ("XADD", "bouchet:notices", "*", "body", "{}"),
    ("ZADD", "bouchet:notices:known", "1", "x"),
)
NOTIFIERS_OWN: Sequence[Command] = (
    ("HSET", "bouchet:notifier:outbox", "x", "{}"),
    ("HGETALL", "bouchet:notifier:position"),
    ("SET", "bouchet:notifier:status", "{}"),
)
SCRIPTS: Sequence[Command] = (
    ("EVAL", TOUCH, "0"),
    ("EVAL", DECLARED, "1", "bouchet:targets"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("EVAL", "return redis.call('ACL', 'LIST')", "0"),
)

MUST_NOT: Mapping[str, Sequence[Command]] = {
    "proxy": (
        *ADMINISTRATION, *QUEUE, *TARGETS, ("HGET", "bouchet:targets", "0"), *RECORDS, *WORKERS_OWN, *CHANGE_KEYS,
        *TUNNEL, ("XRANGE", "bouchet:tunnel", "-", "+"), ("HGETALL", "bouchet:demand"), *SCRIPTS, *SUMS,
        *MEASURES, *JOB_ENTRIES, ("XREVRANGE", "bouchet:ledger:requests", "+", "-"), *NOTICES, *NOTIFIERS_OWN,
    ),
    "gateway": (
        *ADMINISTRATION, *QUEUE, *TARGETS, *RECORDS, *READ_RECORDS, *WORKERS_OWN, *CHANGE_KEYS, *READ_KEYS, *USAGE,
        *READ_USAGE, *LOAD, *DEMAND, ("XRANGE", "bouchet:tunnel", "-", "+"), *SCRIPTS, *MEASURES, *JOB_ENTRIES,
        *NOTICES, *NOTIFIERS_OWN,
    ),
    "worker": (
        *ADMINISTRATION, *CHANGE_KEYS, *READ_KEYS, *USAGE, *READ_USAGE, *TUNNEL, *LOAD, *SCRIPTS[2:], *NOTIFIERS_OWN,
    ),
    "api": (
        *ADMINISTRATION, *WORKERS_OWN, *TUNNEL, *SUMS, *MEASURES, *LOAD, *DEMAND, *SCRIPTS[2:], *NOTICES,
        *NOTIFIERS_OWN,
    ),
    "notifier": (
        *ADMINISTRATION, *QUEUE, *TARGETS, *RECORDS, *READ_RECORDS, *WORKERS_OWN, *CHANGE_KEYS, *READ_KEYS, *TUNNEL,
        *USAGE, *READ_USAGE, *LOAD, *DEMAND, *SCRIPTS, *MEASURES, *JOB_ENTRIES, *NOTICES, ("GET", "bouchet:load"),
        ("HGETALL", "bouchet:demand"), ("XADD", "bouchet:notifier:tests", "*", "test", ""),
    ),
    "health": (
        *ADMINISTRATION, *QUEUE, *TARGETS, *RECORDS, *READ_RECORDS, *WORKERS_OWN, *CHANGE_KEYS, *READ_KEYS, *TUNNEL,
        *USAGE, *READ_USAGE, *SCRIPTS, ("INFO",), *NOTICES, *NOTIFIERS_OWN,
    ),
}  # fmt: skip
