# The node in an image, two ways. The last stage, what `docker build .` makes, compiles it and lays it over Debian. The first
# lays it over nothing, around what node/image/build.sh has put together from a binary built on this host: for where no
# registry can be reached, or where an image should hold nothing else.

FROM scratch AS host
COPY root/ /
COPY --chown=10001:10001 empty/ /var/lib/waypost/
COPY --chown=10001:10001 empty/ /run/waypost/
ENV WAYPOST_DATA=/var/lib/waypost WAYPOST_SOCKET=/run/waypost/waypost.sock PATH=/usr/bin
USER 10001:10001
VOLUME /var/lib/waypost
EXPOSE 4884/tcp 4884/udp
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m CMD ["waypost", "status"]
ENTRYPOINT ["waypost"]
CMD ["run"]

FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential libclang-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package waypost --bin waypost && \
    strip --strip-debug -o /waypost target/release/waypost

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/* && \
    install -d -o 10001 -g 10001 -m 0700 /var/lib/waypost /run/waypost
COPY --from=build /waypost /usr/bin/waypost
ENV WAYPOST_DATA=/var/lib/waypost WAYPOST_SOCKET=/run/waypost/waypost.sock
USER 10001:10001
VOLUME /var/lib/waypost
EXPOSE 4884/tcp 4884/udp
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m CMD ["waypost", "status"]
ENTRYPOINT ["waypost"]
CMD ["run"]
