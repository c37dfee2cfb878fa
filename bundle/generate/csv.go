package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// readBase reads what a person wrote of the ClusterServiceVersion.
func readBase(bundle string) (*object, error) {
	objects, err := readFile(filepath.Join(bundle, "base.yaml"))
	if err != nil {
		return nil, err
	}
	if len(objects) != 1 {
		return nil, fmt.Errorf("base.yaml has %d documents instead of one", len(objects))
	}
	icon, err := os.ReadFile(filepath.Join(bundle, "icon.svg"))
	if err != nil {
		return nil, err
	}
	base := &objects[0]
	return base, unstructured.SetNestedSlice(base.Object, []any{map[string]any{
		"mediatype":  "image/svg+xml",
		"base64data": base64.StdEncoding.EncodeToString(icon),
	}}, "spec", "icon")
}

// newCSV makes the ClusterServiceVersion (operators.coreos.com/v1alpha1) of base.
func newCSV(base *object, c *config, rules []rbacv1.PolicyRule) (*object, error) {
	csv := base.DeepCopy()
	csv.SetAPIVersion("operators.coreos.com/v1alpha1")
	csv.SetKind("ClusterServiceVersion")
	version, _, err := unstructured.NestedString(csv.Object, "spec", "version")
	if err != nil {
		return nil, err
	}
	if version == "" {
		return nil, errors.New("base.yaml needs spec.version")
	}
	csv.SetName(csv.GetName() + ".v" + version)
	description, _, _ := unstructured.NestedString(csv.Object, "spec", "description")
	for _, o := range c.byHand {
		if !strings.Contains(description, o.GetKind()) || !strings.Contains(description, "`"+o.GetName()+"`") {
			return nil, fmt.Errorf("%s %s: OLM installs no object of this kind, and the description in base.yaml does not say that it has to be applied by hand", o.GetKind(), o.GetName())
		}
	}

	images, err := tagImages(csv, c.deployment, version)
	if err != nil {
		return nil, err
	}
	strategy, err := installStrategy(c, rules)
	if err != nil {
		return nil, err
	}
	owned, err := ownedCRDs(csv, c)
	if err != nil {
		return nil, err
	}
	annotations, err := annotationsOf(csv, c)
	if err != nil {
		return nil, err
	}
	csv.SetAnnotations(annotations)
	spec := csv.Object["spec"].(map[string]any)
	spec["relatedImages"] = images
	spec["install"] = strategy
	spec["customresourcedefinitions"] = map[string]any{"owned": owned}
	return csv, nil
}

// annotationsOf adds to the annotations of csv what is known from config/.
func annotationsOf(csv *object, c *config) (map[string]string, error) {
	annotations := csv.GetAnnotations()
	containers, _, err := unstructured.NestedSlice(c.deployment.Object, "spec", "template", "spec", "containers")
	if err != nil {
		return nil, err
	}
	annotations["containerImage"], _, _ = unstructured.NestedString(containers[0].(map[string]any), "image")
	examples := make([]any, len(c.samples))
	for i, sample := range c.samples {
		examples[i] = sample.Object
	}
	for name, value := range map[string]any{
		"alm-examples": examples,
		"operatorframework.io/suggested-namespace-template": c.namespace.Object,
	} {
		text, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return nil, err
		}
		annotations[name] = string(text)
	}
	// The template is newer than the plain name and not known to every console.
	annotations["operatorframework.io/suggested-namespace"] = c.namespace.GetName()
	return annotations, nil
}

// installStrategy is spec.install: what runs, and what it may do.
func installStrategy(c *config, rules []rbacv1.PolicyRule) (map[string]any, error) {
	permission := struct {
		ServiceAccountName string              `json:"serviceAccountName"`
		Rules              []rbacv1.PolicyRule `json:"rules"`
	}{c.serviceAccount, rules}
	permissions, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&permission)
	if err != nil {
		return nil, err
	}
	deployment := map[string]any{
		"name": c.deployment.GetName(),
		"spec": c.deployment.Object["spec"],
	}
	if labels, ok, _ := unstructured.NestedMap(c.deployment.Object, "metadata", "labels"); ok {
		deployment["label"] = labels
	}
	return map[string]any{
		"strategy": "deployment",
		"spec": map[string]any{
			"deployments":        []any{deployment},
			"clusterPermissions": []any{permissions},
		},
	}, nil
}

// tagImages gives the images of csv and deployment the tag of the version and
// returns all of them, for spec.relatedImages, by which a cluster without the
// internet knows what to mirror.
func tagImages(csv, deployment *object, version string) ([]any, error) {
	images, _, err := unstructured.NestedSlice(csv.Object, "spec", "relatedImages")
	if err != nil {
		return nil, err
	}
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(deployment.Object, path...)
	if err != nil {
		return nil, err
	}
	if len(containers) == 0 {
		return nil, errors.New("the Deployment has no containers")
	}
	for _, c := range containers {
		container := c.(map[string]any)
		image := tagImage(container["image"].(string), version)
		container["image"] = image
		name, _, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
		images = append(images, map[string]any{"name": name, "image": image})
	}
	for _, i := range images {
		image := i.(map[string]any)
		image["image"] = tagImage(image["image"].(string), version)
	}
	slices.SortFunc(images, func(a, b any) int {
		return cmp.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
	})
	return images, unstructured.SetNestedSlice(deployment.Object, containers, path...)
}

// tagImage gives an image without a tag, or with latest, which says nothing about
// a release, the tag of the version. A colon before the last slash is a port's.
func tagImage(image, version string) string {
	image = strings.TrimSuffix(image, ":latest")
	if strings.ContainsAny(image[strings.LastIndex(image, "/")+1:], ":@") {
		return image
	}
	return image + ":v" + version
}
