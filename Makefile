# Everything a developer runs. `make help` lists the targets.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools
CONTROLPLANE := $(BIN)/controlplane
# Packages of the main module; folders with a go.mod of their own are others.
PACKAGES ?= ./...
FUZZTIME ?= 20s
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

CONTROLLER_GEN := go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0
KUSTOMIZE := go run sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(TOOLS)/golangci-lint

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use
.PHONY: demo
demo: build ## Tell the whole story on this machine: cache, lose the cloud, restart, return
	@cd test/controlplane && go run . -o $(CONTROLPLANE) etcd kube-apiserver kubectl
	@CGO_ENABLED=0 go build -o $(BIN)/edge-app ./test/apps/edge-app
	@go run ./test/demo --bin $(BIN)

.PHONY: build
build: ## Build edge-hub and edge-hub-operator into bin/
	$(GO_BUILD) -o $(BIN)/edge-hub ./edgehub/cmd/edge-hub
	$(GO_BUILD) -o $(BIN)/edge-hub-operator ./controllers/cmd/edge-hub-operator

.PHONY: images
images: ## Build the container images (needs docker)
	docker build --target edge-hub --build-arg VERSION=$(VERSION) -t ghcr.io/edgehub-io/edge-hub:$(VERSION) .
	docker build --target edge-hub-operator --build-arg VERSION=$(VERSION) -t ghcr.io/edgehub-io/edge-hub-operator:$(VERSION) .

.PHONY: manifests
manifests: ## Print everything that kubectl apply needs for the cloud side
	@$(KUSTOMIZE) build config/default

.PHONY: bundle
bundle: ## Generate the OLM bundle from config/ and bundle/base.yaml
	$(KUSTOMIZE) build config/default | go run ./bundle/generate

##@ Test
.PHONY: test
test: controlplane cc ## Run the unit and integration tests, with the race detector, against a real control plane
	@# What tests count goes to a file, for go test shows the log of failing tests only.
	@report=$$(mktemp); status=0; \
		EDGEHUB_TEST_REPORT=$$report go test -race -timeout 30m $(PACKAGES) || status=$$?; \
		sort $$report; rm -f $$report; exit $$status
	cd test/controlplane && go test ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	@grep -rl --include='*_test.go' '^func Fuzz' api controllers edgehub test | while read -r file; do \
		grep -o '^func Fuzz[A-Za-z0-9]*' "$$file" | while read -r _ name; do \
			echo "== $$name ($$(dirname "$$file"))"; \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$file")" </dev/null; \
		done; \
	done

.PHONY: bench
bench: build controlplane ## Measure edge-hub beside a direct connection and a plain reverse proxy; flags in BENCH
	@go run ./test/bench --bin $(BIN) $(BENCH)

.PHONY: controlplane
controlplane: ## Build kube-apiserver, etcd, kubectl and more from Go modules into bin/, once
	@cd test/controlplane && go run . -o $(CONTROLPLANE)

.PHONY: cc
cc: # the race detector needs a C compiler
	@command -v cc >/dev/null || command -v gcc >/dev/null || { \
		echo "installing a C compiler, which the race detector needs"; \
		{ apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev; } || \
		{ echo "install gcc by hand: the race detector needs it"; exit 1; }; }

##@ Check
.PHONY: generate
generate: ## Generate deep copies, the CRD and RBAC
	$(CONTROLLER_GEN) object paths=./api/...
	$(CONTROLLER_GEN) crd paths=./api/... output:crd:artifacts:config=config/crd/bases
	$(CONTROLLER_GEN) rbac:roleName=edge-hub-operator paths=./controllers/... output:rbac:artifacts:config=config/rbac

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run golangci-lint, import rules included
	$(GOLANGCI_LINT) run

.PHONY: verify
verify: lint ## Check that generated files and go.mod are current, manifests build, and the linter is content
	go mod tidy -diff
	cd test/controlplane && go mod tidy -diff && go vet ./...
	cd test/oracle/apiserver && go mod tidy -diff && go vet ./...
	$(MAKE) --no-print-directory generate
	@git diff --exit-code -- api config || { echo "generated files were not current: commit what make generate wrote"; exit 1; }
	$(MAKE) --no-print-directory bundle
	@test -z "$$(git status --porcelain -- bundle)" || { git status --short -- bundle; \
		echo "the bundle was not current: commit what make bundle wrote"; exit 1; }
	cd bundle/validate && go mod tidy -diff && go vet ./... && go test ./...
	@! go list -m all | grep -q '^k8s.io/kubernetes ' || { echo "go.mod must stay free of k8s.io/kubernetes"; exit 1; }

$(GOLANGCI_LINT):
	@mkdir -p $(TOOLS)
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION), once"
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

.PHONY: clean
clean: ## Remove what was built, the control plane aside
	rm -f $(BIN)/edge-hub $(BIN)/edge-hub-operator $(BIN)/oracle-apiserver
