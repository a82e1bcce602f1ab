# The images of the five services, of Redis and of Prometheus, one target each. LiteLLM and SSH are in different images.
# Dialect: BuildKit 1.2, what engine 20.10 knows without asking a registry: no syntax line, heredocs or COPY --link.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS base
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/app
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
 && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3 libpython3-stdlib \
 && rm -rf /var/log/apt /var/log/dpkg.log
COPY --chmod=0755 setup/image/http-ok /usr/local/bin/http-ok
# which base it is: a tag may name another image tomorrow
ARG BASE
ARG BASE_DIGEST
LABEL org.opencontainers.image.base.name="${BASE}" org.opencontainers.image.base.digest="${BASE_DIGEST}"

# /opt/build has pip, /opt/venv what a service runs on. Our own sources come last: a changed line of ours costs no
# installation. Modes are set, because only the owner may be able to read a checkout.
FROM base AS build
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv
COPY --chmod=0755 setup/image/pip-install /usr/local/bin/
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/venv

FROM build AS gateway-build
COPY services/gateway/requirements.lock /locks/gateway.lock
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=build_ca \
    pip-install /opt/venv --require-hashes -r /locks/gateway.lock

FROM build AS worker-build
COPY services/worker/requirements.lock /locks/worker.lock
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=build_ca \
    pip-install /opt/venv --require-hashes -r /locks/worker.lock

FROM build AS api-build
COPY services/api/requirements.lock /locks/api.lock
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=build_ca \
    pip-install /opt/venv --require-hashes -r /locks/api.lock

FROM build AS proxy-build
COPY services/proxy/requirements.lock services/proxy/unused-packages.txt /locks/
# What LiteLLM brings for clouds, databases and its admin pages is removed in the same layer. The import proves
# that none of it is needed to start.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=build_ca \
    pip-install /opt/venv --require-hashes -r /locks/requirements.lock \
 && /opt/build/bin/python -m pip --python /opt/venv/bin/python uninstall --quiet --yes -r /locks/unused-packages.txt \
 && rm -rf /opt/venv/lib/python3*/site-packages/litellm/proxy/_experimental/out \
 && LITELLM_LOCAL_MODEL_COST_MAP=True /opt/venv/bin/python -c 'import litellm.proxy.proxy_server'

FROM build AS notifier-build
COPY services/notifier/requirements.lock /locks/notifier.lock
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=build_ca \
    pip-install /opt/venv --require-hashes -r /locks/notifier.lock

FROM base AS gateway
# Kerberos tickets (GSSAPI): PyPI has no wheel of gssapi, Debian has it for its own Python, which the venv runs on
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-gssapi \
 && rm -rf /var/log/apt /var/log/dpkg.log
# writable for any uid: the container's is chosen at run time (BOUCHET_UID)
RUN install -d -m 1777 /data
COPY --from=gateway-build /opt/venv /opt/venv
RUN ln -s /usr/lib/python3/dist-packages/gssapi /usr/lib/python3/dist-packages/decorator.py \
      /opt/venv/lib/python3*/site-packages/ \
 && python -c 'from asyncssh.gss import gss_available; assert gss_available'
COPY --chmod=0755 core/bouchet_core /opt/app/bouchet_core
COPY --chmod=0755 services/gateway/bouchet_gateway /opt/app/bouchet_gateway
RUN python3 -m compileall -q /opt/app
# what may run on the cluster: nothing else can be written to the scripts' folder
COPY --chmod=0755 remote /app/remote
USER 10001:10001
CMD ["python", "-m", "bouchet_gateway"]

FROM base AS worker
COPY --from=worker-build /opt/venv /opt/venv
COPY --chmod=0755 core/bouchet_core /opt/app/bouchet_core
COPY --chmod=0755 services/worker/bouchet_worker /opt/app/bouchet_worker
RUN python3 -m compileall -q /opt/app
COPY --chmod=0755 remote /app/remote
# `commit` exists if `make up` found git
COPY --chmod=0755 apptainer/vllm.def apptainer/build.sh apptainer/manifest.py apptainer/oci.py apptainer/commi[t] \
    /app/apptainer/
COPY --chmod=0755 setup/image/worker-ok /usr/local/bin/worker-ok
ENV HEARTBEAT_FILE=/tmp/heartbeat
USER 10001:10001
CMD ["python", "-m", "bouchet_worker"]

FROM base AS api
# writable for any uid: the container's is chosen at run time (BOUCHET_UID)
RUN install -d -m 1777 /data
COPY --from=api-build /opt/venv /opt/venv
COPY --chmod=0755 core/bouchet_core /opt/app/bouchet_core
COPY --chmod=0755 services/api/bouchet_api /opt/app/bouchet_api
RUN python3 -m compileall -q /opt/app
USER 10001:10001
CMD ["python", "-m", "bouchet_api"]

FROM base AS proxy
# one heap for all threads: less memory is retained
ENV MALLOC_ARENA_MAX=1
COPY --from=proxy-build /opt/venv /opt/venv
COPY --chmod=0755 core/bouchet_core /opt/app/bouchet_core
COPY --chmod=0755 services/proxy/bouchet_proxy /opt/app/bouchet_proxy
RUN python3 -m compileall -q /opt/app
USER 10001:10001
EXPOSE 4000
CMD ["python", "-m", "bouchet_proxy"]

FROM base AS notifier
COPY --from=notifier-build /opt/venv /opt/venv
COPY --chmod=0755 core/bouchet_core /opt/app/bouchet_core
COPY --chmod=0755 services/notifier/bouchet_notifier /opt/app/bouchet_notifier
RUN python3 -m compileall -q /opt/app
COPY --chmod=0755 setup/image/worker-ok /usr/local/bin/worker-ok
ENV HEARTBEAT_FILE=/tmp/heartbeat
USER 10001:10001
CMD ["python", "-m", "bouchet_notifier"]

FROM base AS prometheus
# /data is writable for any uid: the container's is chosen at run time (BOUCHET_UID)
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends prometheus \
 && rm -rf /var/log/apt /var/log/dpkg.log \
 && install -d -m 1777 /data
COPY --chmod=0644 deploy/prometheus/prometheus.yml deploy/prometheus/alerts.yaml /etc/prometheus/
USER 10001:10001
CMD ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data", \
     "--storage.tsdb.retention.time=30d", "--storage.tsdb.retention.size=2GB", "--web.listen-address=0.0.0.0:9090"]

FROM ${BASE} AS redis
ENV DEBIAN_FRONTEND=noninteractive
# /data is writable for any uid: the containers' uid is chosen at run time (BOUCHET_UID), after the image is made.
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
 && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends redis-server \
 && rm -rf /var/log/apt /var/log/dpkg.log \
 && install -d -m 1777 /data
COPY --chmod=0644 setup/image/redis.conf /etc/bouchet/redis.conf
COPY --chmod=0755 setup/image/redis-start setup/image/redis-ok /usr/local/bin/
ARG BASE
ARG BASE_DIGEST
LABEL org.opencontainers.image.base.name="${BASE}" org.opencontainers.image.base.digest="${BASE_DIGEST}"
USER 10001:10001
CMD ["redis-start"]
