package oracle

// samples are objects in all the states that a Table shows in a way of its own.
const samples = `
{apiVersion: v1, kind: Pod, metadata: {name: t-running}, spec: {automountServiceAccountToken: false, nodeName: stays, containers: [{name: a, image: x}, {name: b, image: yy}], readinessGates: [{conditionType: example.com/gate}, {conditionType: example.com/other}]},
 status: {phase: Running, podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}], conditions: [{type: Ready, status: "True"}, {type: Initialized, status: "True"}, {type: example.com/gate, status: "True"}],
 containerStatuses: [{name: a, ready: true, restartCount: 3, image: x, imageID: x, state: {running: {startedAt: "2024-01-01T00:00:00Z"}}, lastState: {terminated: {exitCode: 1, finishedAt: "2020-01-01T00:00:00Z"}}},
 {name: b, ready: false, restartCount: 0, image: yy, imageID: yy, state: {terminated: {exitCode: 0, reason: Completed}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-crashing}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}, {name: b, image: yy}]},
 status: {phase: Running, containerStatuses: [{name: a, ready: false, restartCount: 7, image: x, imageID: x, state: {waiting: {reason: CrashLoopBackOff}}}, {name: b, ready: true, restartCount: 1, image: yy, imageID: yy, state: {running: {}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-signal}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}]},
 status: {phase: Failed, containerStatuses: [{name: a, ready: false, restartCount: 0, image: x, imageID: x, state: {terminated: {exitCode: 137, signal: 9}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-exit}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}, {name: b, image: x}]},
 status: {phase: Succeeded, containerStatuses: [{name: a, ready: false, restartCount: 0, image: x, imageID: x, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: b, ready: false, restartCount: 0, image: x, imageID: x, state: {terminated: {exitCode: 3}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-notready}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}, {name: b, image: x}]},
 status: {phase: Running, containerStatuses: [{name: a, ready: false, restartCount: 0, image: x, imageID: x, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: b, ready: true, restartCount: 0, image: x, imageID: x, state: {running: {}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-init}, spec: {automountServiceAccountToken: false, initContainers: [{name: i, image: x}, {name: j, image: x}], containers: [{name: a, image: x}]},
 status: {phase: Pending, initContainerStatuses: [{name: i, ready: true, restartCount: 2, image: x, imageID: x, state: {terminated: {exitCode: 0}}, lastState: {terminated: {exitCode: 1, finishedAt: "2020-01-01T00:00:00Z"}}}, {name: j, ready: false, restartCount: 1, image: x, imageID: x, state: {running: {}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-initfails}, spec: {automountServiceAccountToken: false, initContainers: [{name: i, image: x}], containers: [{name: a, image: x}]},
 status: {phase: Pending, initContainerStatuses: [{name: i, ready: false, restartCount: 4, image: x, imageID: x, state: {terminated: {exitCode: 2}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-initwaits}, spec: {automountServiceAccountToken: false, initContainers: [{name: i, image: x}], containers: [{name: a, image: x}]},
 status: {phase: Pending, initContainerStatuses: [{name: i, ready: false, restartCount: 0, image: x, imageID: x, state: {waiting: {reason: ErrImagePull}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-sidecar}, spec: {automountServiceAccountToken: false, initContainers: [{name: i, image: x, restartPolicy: Always}, {name: j, image: x}], containers: [{name: a, image: x}]},
 status: {phase: Running, conditions: [{type: Initialized, status: "True"}], initContainerStatuses: [{name: i, ready: true, started: true, restartCount: 2, image: x, imageID: x, state: {running: {}}, lastState: {terminated: {exitCode: 1, finishedAt: "2020-01-01T00:00:00Z"}}}, {name: j, ready: true, restartCount: 5, image: x, imageID: x, state: {terminated: {exitCode: 0}}}],
 containerStatuses: [{name: a, ready: true, restartCount: 1, image: x, imageID: x, state: {running: {}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-sidecarwaits}, spec: {automountServiceAccountToken: false, initContainers: [{name: i, image: x, restartPolicy: Always}], containers: [{name: a, image: x}]},
 status: {phase: Pending, initContainerStatuses: [{name: i, ready: false, started: false, restartCount: 2, image: x, imageID: x, state: {waiting: {reason: PodInitializing}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-gated}, spec: {automountServiceAccountToken: false, schedulingGates: [{name: example.com/gate}], containers: [{name: a, image: x}]}, status: {phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: SchedulingGated}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-evicted}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}]}, status: {phase: Failed, reason: Evicted}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-terminating, finalizers: [example.com/f], annotations: {oracle/deleted: "true"}}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}]}, status: {phase: Running}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t-lost, finalizers: [example.com/f], annotations: {oracle/deleted: "true"}}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}]}, status: {phase: Running, reason: NodeLost}}
---
{apiVersion: v1, kind: Service, metadata: {name: t-lb}, spec: {type: LoadBalancer, externalIPs: [1.2.3.4], ports: [{port: 80, name: a}, {port: 443, name: b, protocol: UDP}], selector: {a: b, c: d}}, status: {loadBalancer: {ingress: [{hostname: z.example.com}, {ip: 5.6.7.8}, {ip: 5.6.7.8}]}}}
---
{apiVersion: v1, kind: Service, metadata: {name: t-pending}, spec: {type: LoadBalancer, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: t-external}, spec: {externalIPs: [1.2.3.4, 1.2.3.5], ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: t-node, labels: {node-role.kubernetes.io/edge: "", node-role.kubernetes.io/b: "", kubernetes.io/role: edge}}, spec: {}, status: {conditions: [{type: Ready, status: Unknown}], addresses: [{type: ExternalIP, address: 1.1.1.1}, {type: InternalIP, address: 2.2.2.2}], nodeInfo: {kubeletVersion: v1.37.2, osImage: Debian, kernelVersion: "6.1", containerRuntimeVersion: "containerd://2", architecture: arm64, bootID: a, kubeProxyVersion: "", machineID: a, operatingSystem: linux, systemUUID: a}}}
---
{apiVersion: v1, kind: Node, metadata: {name: t-unknown}, spec: {unschedulable: true}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: t-many}, subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{port: 80, name: a}, {port: 81, name: b}]}, {addresses: [{ip: 10.0.0.3}]}]}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: t-none}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: t-pv}, spec: {capacity: {storage: 5Gi}, accessModes: [ReadWriteMany, ReadWriteOnce, ReadOnlyMany], storageClassName: fast, claimRef: {namespace: shop, name: t-claim}, hostPath: {path: /x}, persistentVolumeReclaimPolicy: Retain}, status: {phase: Released, reason: because}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: t-old, annotations: {volume.beta.kubernetes.io/storage-class: old}}, spec: {capacity: {storage: 1500M}, accessModes: [ReadWriteOncePod], hostPath: {path: /x}, volumeMode: Block}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: t-bound}, spec: {accessModes: [ReadWriteOnce], volumeName: t-pv, storageClassName: fast, resources: {requests: {storage: 1Gi}}}, status: {phase: Bound, accessModes: [ReadWriteOnce], capacity: {storage: 5Gi}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: t-waits}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: v1, kind: PodTemplate, metadata: {name: t-template}, template: {metadata: {labels: {a: b, c: d}}, spec: {containers: [{name: a, image: x}, {name: b, image: yy}]}}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: t-quota}, spec: {hard: {pods: "10", limits.cpu: "4", requests.cpu: "2", memory: 1Gi}}, status: {hard: {pods: "10", limits.cpu: "4", requests.cpu: "2", memory: 1Gi}, used: {pods: "3", limits.cpu: 500m}}}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: t-range}, spec: {limits: [{type: Container, max: {cpu: "1"}}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: t-deploy}, spec: {selector: {matchExpressions: [{key: a, operator: In, values: [b, c]}]}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: x}, {name: b, image: yy}]}}}, status: {replicas: 3, updatedReplicas: 2, readyReplicas: 1, availableReplicas: 1}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: t-daemon}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {nodeSelector: {k: v, a: z}, containers: [{name: a, image: x}]}}}, status: {currentNumberScheduled: 1, numberMisscheduled: 2, desiredNumberScheduled: 3, numberReady: 4, updatedNumberScheduled: 5, numberAvailable: 6}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: t-stateful}, spec: {serviceName: x, replicas: 4, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: x}]}}}, status: {replicas: 4, readyReplicas: 2}}
---
{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: t-revision, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: t-daemon, uid: x, controller: true}]}, revision: 7, data: {a: b}}
---
{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: t-orphan}, revision: 1, data: {a: b}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: t-queue}, spec: {parallelism: 3, template: {spec: {restartPolicy: Never, containers: [{name: a, image: x}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: t-suspended}, spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: a, image: x}]}}}, status: {conditions: [{type: Suspended, status: "True"}]}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: t-cron}, spec: {schedule: "* * * * *", timeZone: Europe/Berlin, suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: x}]}}}}}, status: {active: [{name: a}, {name: b}]}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: t-plain}, spec: {schedule: "@daily", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: x}]}}}}}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: t-scaler}, spec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: t-deploy}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}, {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 100Mi}}}, {type: Pods, pods: {metric: {name: m}, target: {type: AverageValue, averageValue: "10"}}}]},
 status: {desiredReplicas: 2, currentReplicas: 2, currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 50, averageValue: 5m}}}, {type: Resource, resource: {name: memory, current: {averageValue: 50Mi}}}]}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: t-others}, spec: {minReplicas: 2, maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: t-deploy}, metrics: [{type: External, external: {metric: {name: m}, target: {type: Value, value: "10"}}}, {type: Object, object: {metric: {name: m}, describedObject: {kind: Service, name: x}, target: {type: AverageValue, averageValue: "7"}}}]}}
---
{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: t-first}, spec: {maxReplicas: 5, targetCPUUtilizationPercentage: 60, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: t-deploy}}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: t-least}, spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}, status: {currentHealthy: 1, desiredHealthy: 1, disruptionsAllowed: 2, expectedPods: 3}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: t-most}, spec: {maxUnavailable: 1, selector: {matchLabels: {a: b}}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: t-ingress}, spec: {ingressClassName: t-class, tls: [{hosts: [a.example.com]}], rules: [{host: a.example.com}, {host: b.example.com}, {host: c.example.com}, {host: d.example.com}, {host: e.example.com}]}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}, {hostname: a.example.com}]}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: t-any}, spec: {defaultBackend: {service: {name: x, port: {number: 80}}}}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: t-class, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}, spec: {controller: example.com/c, parameters: {apiGroup: example.com, kind: K, name: nn}}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: t-other}, spec: {controller: example.com/c}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: t-policy}, spec: {podSelector: {matchLabels: {a: b}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: t-everything}, spec: {podSelector: {}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: t-slice}, addressType: IPv4, ports: [{port: 80, name: a}, {name: b}, {name: c, port: 1}, {name: d, port: 2}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: t-empty}, addressType: FQDN, endpoints: []}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: t-role}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: t-binding}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: t-role}, subjects: [{kind: User, name: u, apiGroup: rbac.authorization.k8s.io}, {kind: User, name: v, apiGroup: rbac.authorization.k8s.io}, {kind: Group, name: g, apiGroup: rbac.authorization.k8s.io}, {kind: ServiceAccount, name: s, namespace: nn}]}
---
{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: t-csr}, spec: {request: REQUEST, signerName: example.com/s, usages: [client auth], expirationSeconds: 86400}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: t-b, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}, provisioner: p, allowVolumeExpansion: true, volumeBindingMode: WaitForFirstConsumer, reclaimPolicy: Retain}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: t-a, annotations: {storageclass.beta.kubernetes.io/is-default-class: "true"}}, provisioner: p}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: t-c}, provisioner: p}
---
{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: t-attachment}, spec: {attacher: a, nodeName: nn, source: {persistentVolumeName: t-pv}}, status: {attached: true}}
---
{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: t.example.com}, spec: {attachRequired: false, podInfoOnMount: true, tokenRequests: [{audience: a}, {audience: b}], requiresRepublish: true, volumeLifecycleModes: [Persistent, Ephemeral]}}
---
{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: u.example.com}, spec: {}}
---
{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: t-node}, spec: {drivers: [{name: t.example.com, nodeID: x}]}}
---
{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: t-capacity}, storageClassName: fast, capacity: 5Gi}
---
{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, metadata: {name: t-gold}, driverName: d, parameters: {a: b}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: t-class}, value: 1000, globalDefault: true, preemptionPolicy: Never}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: t-runtime}, handler: h}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: t-hooks}, webhooks: []}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: t-hooks}, webhooks: []}
---
{apiVersion: resource.k8s.io/v1, kind: DeviceClass, metadata: {name: t-class}, spec: {}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: t-claim}, spec: {devices: {requests: [{name: a, exactly: {deviceClassName: t-class}}]}}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceClaimTemplate, metadata: {name: t-template}, spec: {spec: {devices: {requests: [{name: a, exactly: {deviceClassName: t-class}}]}}}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceSlice, metadata: {name: t-slice}, spec: {driver: d.example.com, nodeName: nn, pool: {name: p, generation: 1, resourceSliceCount: 1}, devices: [{name: a}]}}`
