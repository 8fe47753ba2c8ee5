// Command terrace-controlplane is a Kubernetes control plane for tests: its components in one binary, one
// subcommand each, so that their common code is compiled and linked once. tools/controlplane builds it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// components by the name of their own binaries. kube-scheduler and kubelet have their place here.
var components = map[string]func() int{
	"etcd": func() int {
		etcdmain.Main(os.Args)
		return 0
	},
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(manager.NewControllerManagerCommand()) },
	// What a user has: tests type what the README says.
	"kubectl": func() int { return cli.Run(kubectl.NewDefaultKubectlCommand()) },
}

func main() {
	// Called under a component's own name, as through a link, it is that component: KUBEBUILDER_ASSETS names such
	// folders.
	if run, ok := components[filepath.Base(os.Args[0])]; ok {
		os.Exit(run())
	}
	if len(os.Args) > 1 {
		if run, ok := components[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			os.Exit(run())
		}
	}
	fmt.Fprintf(os.Stderr, "usage: terrace-controlplane %s [flags]\n", strings.Join(names(), "|"))
	os.Exit(2)
}

func names() []string {
	var names []string
	for name := range components {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
