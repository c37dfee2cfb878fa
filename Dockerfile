# What `make images` makes, for whoever builds with docker:
#   docker build --target edge-hub --build-arg VERSION=v0.1.0 .
#   docker build --target edge-hub-operator --build-arg VERSION=v0.1.0 .
# The programs are the same bytes and the configuration is the same; the digests
# are not, for docker writes archives of its own. Releases come from `make images`.
ARG GO_VERSION=1.26.8
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY Makefile ./
COPY api ./api
COPY controllers ./controllers
COPY edgehub ./edgehub
ARG TARGETOS TARGETARCH VERSION=devel
RUN make programs PLATFORMS=$TARGETOS/$TARGETARCH VERSION=$VERSION \
 && mv bin/programs/${TARGETOS}_$TARGETARCH /programs

# The hub writes to directories of the node that belong to root.
FROM scratch AS edge-hub
COPY --from=build /programs/edge-hub /edge-hub
ARG VERSION=devel
LABEL org.opencontainers.image.title=edge-hub \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.source=https://github.com/edgehub-io/edge-hub \
      org.opencontainers.image.licenses=Apache-2.0
USER 0:0
WORKDIR /
ENTRYPOINT ["/edge-hub"]
CMD ["run"]

FROM scratch AS edge-hub-operator
COPY --from=build /programs/edge-hub-operator /edge-hub-operator
ARG VERSION=devel
LABEL org.opencontainers.image.title=edge-hub-operator \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.source=https://github.com/edgehub-io/edge-hub \
      org.opencontainers.image.licenses=Apache-2.0
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/edge-hub-operator"]
