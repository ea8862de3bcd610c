# Tailwater in a container: not root, and nothing is written outside /var/lib/tailwater, so that the root file system can be
# read-only. `docker build -t tailwater .`
FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libc6-dev make pkg-config libssl-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin tailwater

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/tailwater --shell /usr/sbin/nologin tailwater \
    && install -d -o tailwater -g tailwater -m 0700 /var/lib/tailwater \
    && install -d /etc/tailwater/connectors
COPY --from=build /source/target/release/tailwater /usr/bin/tailwater
USER 10001
VOLUME /var/lib/tailwater
EXPOSE 8083
# SIGTERM drains to shutdown.timeout.ms (30 s); `docker stop --time` must be longer.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tailwater"]
CMD ["run", "--listen", "0.0.0.0:8083", "--connectors", "/etc/tailwater/connectors"]
