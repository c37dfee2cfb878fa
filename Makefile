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

# The version of every tool stands here, and nowhere else but in go.mod files.
GO_VERSION := 1.26.8
CONTROLLER_GEN := go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0
KUSTOMIZE := go run sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
CRANE := go run github.com/google/go-containerregistry/cmd/crane@v0.22.1
GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(TOOLS)/golangci-lint

# The same source, VERSION and Go give the same bytes, in any folder.
GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION)'

# What is released is built by this Go, whatever else a person has set.
RELEASE_ENV := env GOTOOLCHAIN=go$(GO_VERSION) GOFLAGS=-mod=readonly GOWORK=off GOEXPERIMENT= GOFIPS140=off GOAMD64=v1 GOARM64=v8.0
PLATFORMS ?= linux/amd64 linux/arm64
PLUGIN_PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
REGISTRY ?= ghcr.io/edgehub-io
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
RELEASE := cd test/release && $(RELEASE_ENV) SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) go run . -bin $(BIN) -registry $(REGISTRY) -version $(VERSION) -revision "$(REVISION)"

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
build: ## Build edge-hub, edge-hub-operator and kubectl-edgehub into bin/
	$(GO_BUILD) -o $(BIN)/edge-hub ./edgehub/cmd/edge-hub
	$(GO_BUILD) -o $(BIN)/edge-hub-operator ./controllers/cmd/edge-hub-operator
	$(GO_BUILD) -o $(BIN)/kubectl-edgehub ./controllers/cmd/kubectl-edgehub

.PHONY: manifests
manifests: ## Print everything that kubectl apply needs for the cloud side
	@$(KUSTOMIZE) build config/default

.PHONY: bundle
bundle: ## Generate the OLM bundle from config/ and bundle/base.yaml
	$(KUSTOMIZE) build config/default | go run ./bundle/generate

##@ Release
.PHONY: programs
programs: ## Build both programs for all PLATFORMS into bin/programs/
	@rm -rf $(BIN)/programs
	@for platform in $(PLATFORMS); do \
		echo "building for $$platform"; mkdir -p $(BIN)/programs/$${platform/\//_}; \
		$(RELEASE_ENV) GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GO_BUILD) -o $(BIN)/programs/$${platform/\//_}/ \
			./edgehub/cmd/edge-hub ./controllers/cmd/edge-hub-operator; \
	done

.PHONY: images
images: programs ## Pack the programs as OCI image layouts into bin/images/; no docker needed
	@$(RELEASE) images

.PHONY: sbom
sbom: programs ## Write an SPDX document for each image into bin/sbom/
	@$(RELEASE) sbom

.PHONY: release
release: programs ## Make everything that a release consists of, and bin/SHA256SUMS
	@rm -rf $(BIN)/images $(BIN)/sbom
	@$(RELEASE) images sbom
	@cd $(BIN) && sha256sum programs/*/* sbom/* images/*/index.json > SHA256SUMS

.PHONY: publish
publish: release ## Push the images to REGISTRY, with the digests that they have here
	$(CRANE) push $(BIN)/images/edge-hub $(REGISTRY)/edge-hub:$(VERSION)
	$(CRANE) push $(BIN)/images/edge-hub-operator $(REGISTRY)/edge-hub-operator:$(VERSION)

.PHONY: plugin
plugin: ## Pack the kubectl plugin for PLUGIN_PLATFORMS, with its krew manifest, into bin/plugin/
	@rm -rf $(BIN)/plugin; mkdir -p $(BIN)/plugin; manifest=$(BIN)/plugin/edgehub.yaml; \
	sed 's/VERSION/$(VERSION)/g' config/krew/edgehub.yaml >$$manifest; \
	for platform in $(PLUGIN_PLATFORMS); do \
		name=$${platform/\//_}; dir=$$(mktemp -d); archive=$(BIN)/plugin/kubectl-edgehub_$$name.tar.gz; \
		$(RELEASE_ENV) GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GO_BUILD) -o $$dir/kubectl-edgehub ./controllers/cmd/kubectl-edgehub; \
		cp LICENSE $$dir/; \
		tar -C $$dir --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(SOURCE_DATE_EPOCH) -cf - kubectl-edgehub LICENSE | gzip -n9 >$$archive; \
		sum=$$(sha256sum <$$archive); sed -i "s/SHA256_$$name/$${sum%% *}/" $$manifest; rm -r $$dir; \
	done; ls -l $(BIN)/plugin

.PHONY: reproducible
reproducible: ## Make the release twice, under different circumstances, and compare every byte
	@test/release/reproducible

##@ Test
.PHONY: test
test: controlplane kwok cc ## Run the unit and integration tests, with the race detector, against a real control plane
	@# What tests count goes to a file, for go test shows the log of failing tests only.
	@report=$$(mktemp); status=0; \
		EDGEHUB_TEST_REPORT=$$report go test -race -timeout 30m $(PACKAGES) || status=$$?; \
		sort $$report; rm -f $$report; exit $$status
	cd test/controlplane && go test ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (20s), about 12 minutes in all; FUZZTIME=5m to look deeper
	@# To make an input small for a minute takes time from finding others.
	@# Go before 1.27 may take the end of the time for a failure (go.dev/issue/75804). An
	@# input that was found is kept in testdata, and fails the second run, too.
	@grep -rl --include='*_test.go' '^func Fuzz' api controllers edgehub test | while read -r file; do \
		grep -o '^func Fuzz[A-Za-z0-9]*' "$$file" | while read -r _ name; do \
			echo "== $$name ($$(dirname "$$file"))"; \
			run() { go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$(dirname "$$file")" </dev/null; }; \
			run || run; \
		done; \
	done

.PHONY: bench
bench: build controlplane ## Measure edge-hub beside a direct connection and a plain reverse proxy; flags in BENCH
	@go run ./test/bench --bin $(BIN) $(BENCH)

.PHONY: e2e
e2e: build controlplane e2e-program ## Run a real edge node, unplug it and reboot it; needs root and Debian's packages; flags in E2E
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(BIN)/apps/ ./test/apps/...
	@$(BIN)/e2e -bin $(BIN) $(E2E)

.PHONY: e2e-program
e2e-program: # asked with -check, it says whether this machine can
	@CGO_ENABLED=0 go build -o $(BIN)/e2e ./test/e2e

.PHONY: scale
scale: build controlplane kwok ## Measure the operator over 1,000 nodes and 10,000 Pods that kwok plays; flags in SCALE
	@go run ./test/scale -bin $(BIN) $(SCALE)

.PHONY: kwok
kwok: # plays nodes
	@cd test/scale/kwok && GOWORK=off CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(CONTROLPLANE)/kwok sigs.k8s.io/kwok/cmd/kwok

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
# Times of RFC 3339 as Go reads them; that there is such a day, hour and second is what
# the format checks.
DATE_TIME := ^[0-9-]{10}T[0-9:]{8}([.][0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$$

.PHONY: generate
generate: ## Generate deep copies, the CRD and RBAC
	$(CONTROLLER_GEN) object paths=./api/...
	$(CONTROLLER_GEN) crd paths=./api/... output:crd:artifacts:config=config/crd/bases
	@# The format alone admits times that Go can't read, and one of them in one object
	@# would keep every client from listing all of them.
	sed -i -E "s/^( *)format: date-time$$/&\n\1pattern: '$(DATE_TIME)'/" config/crd/bases/*.yaml
	@# Without a default kube-apiserver drops a label whose value is null, as it is where
	@# nothing follows "app:", and the selector selects everything. The default is what
	@# null means in a Deployment; controller-gen knows none of values in a map.
	sed -i -E 's/^( *)description: LabelValue is the value of a label\.$$/\1default: ""\n&/' config/crd/bases/edgehub.io_edgehubpolicies.yaml
	$(CONTROLLER_GEN) rbac:roleName=edge-hub-operator paths=./controllers/... output:rbac:artifacts:config=config/rbac

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run golangci-lint, import rules included
	$(GOLANGCI_LINT) run

.PHONY: verify
verify: lint ## Check that generated files and go.mod are current, manifests build, and the linter is content
	go mod tidy -diff
	cd test/controlplane && go mod tidy -diff && go vet ./...
	cd test/oracle/apiserver && go mod tidy -diff && go vet ./...
	cd test/scale/kwok && go mod tidy -diff
	cd test/release && go mod tidy -diff && go vet ./... && go test ./...
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
	rm -f $(BIN)/edge-hub $(BIN)/edge-hub-operator $(BIN)/kubectl-edgehub $(BIN)/oracle-apiserver
	rm -rf $(BIN)/plugin $(BIN)/programs $(BIN)/images $(BIN)/sbom $(BIN)/SHA256SUMS
