# What an image needs from the distribution, for building nodes without a network: `docker save` makes it a file.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
ARG PACKAGES="python3 python3-venv libnuma1 util-linux"
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${PACKAGES} \
 && rm -rf /var/lib/apt/lists/*
