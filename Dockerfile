# The image of the server: the program and the roots of the certificate authorities, nothing else.
#
#   docker build --tag registry.example.com/leasehold:0.1.0 .
#   buildah build --format docker --tag registry.example.com/leasehold:0.1.0 .    (the OCI format has no HEALTHCHECK)

# Rust 1.91 or newer, a C compiler, the static library of glibc 2.34 or newer, and ca-certificates.
ARG BUILDER_IMAGE=docker.io/library/rust:1.95-slim-bookworm
# What the program is put on. It needs nothing of it.
ARG RUNTIME_IMAGE=scratch

FROM ${BUILDER_IMAGE} AS builder
WORKDIR /build
# Linked statically, so that no library comes along; and against glibc, not musl: that is what the tests run with, and what
# other pods look names up with. Since 2.34 it holds `files` and `dns` itself, all that is asked without an nsswitch.conf, so
# a static program too finds its hosts. It reads its random numbers from /dev/urandom, which every runtime provides, as
# it cannot see whether its libc has the call for them. With a target named, though it is the host, macros are spared these flags: they are
# loaded, and must not be static.
ENV RUSTFLAGS="-C target-feature=+crt-static"

# The dependencies, with an empty program, which is thrown away: this layer stays as long as these two files do.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cargo build --release --locked --target host-tuple --bin leasehold \
    && cargo clean --release --locked --target host-tuple --package leasehold

COPY src src
RUN cargo build --release --locked --target host-tuple --bin leasehold \
    && cp target/*/release/leasehold leasehold

FROM ${RUNTIME_IMAGE}
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /build/leasehold /leasehold
# Reachable from outside the container, so the embedded store needs LEASEHOLD_STORE=memory.
ENV LEASEHOLD_LISTEN=0.0.0.0:8080
EXPOSE 8080
# No account has this number, and the chart uses the same. Kubernetes can tell from a number that it is not root.
USER 65532:65532
# Kubernetes ignores this, because it has its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/leasehold", "healthcheck"]
ENTRYPOINT ["/leasehold"]
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="leasehold" \
      org.opencontainers.image.description="A lock service over HTTP: leases and fencing tokens on Redis Sentinel" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
