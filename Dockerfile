# One target per program:
#   docker build --target edge-hub .
#   docker build --target edge-hub-operator .
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api ./api
COPY controllers ./controllers
COPY edgehub ./edgehub
ARG TARGETOS TARGETARCH VERSION=devel
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH
RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/edge-hub ./edgehub/cmd/edge-hub \
 && go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/edge-hub-operator ./controllers/cmd/edge-hub-operator

# The hub writes to directories of the node that belong to root.
FROM gcr.io/distroless/static-debian12:latest AS edge-hub
COPY --from=build /out/edge-hub /edge-hub
ENTRYPOINT ["/edge-hub"]
CMD ["run"]

FROM gcr.io/distroless/static-debian12:nonroot AS edge-hub-operator
COPY --from=build /out/edge-hub-operator /edge-hub-operator
USER 65532:65532
ENTRYPOINT ["/edge-hub-operator"]
