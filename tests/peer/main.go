// The peer of `cargo xtask bench scale`: cAdvisor as the kubelet embeds it (pkg/kubelet/cadvisor/cadvisor_linux.go of
// Kubernetes 1.36: housekeeping every 10 s, up to 15 s for what is idle), but with its memory metrics alone.
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/google/cadvisor/cache/memory"
	"github.com/google/cadvisor/container"
	v2 "github.com/google/cadvisor/info/v2"
	"github.com/google/cadvisor/manager"
	"github.com/google/cadvisor/metrics"
	"github.com/google/cadvisor/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/utils/clock"
)

func main() {
	for name, value := range map[string]string{
		"housekeeping_interval":     "10s",
		"event_storage_event_limit": "default=0",
		"event_storage_age_limit":   "default=0",
	} {
		if err := flag.Set(name, value); err != nil {
			log.Fatal(err)
		}
	}
	longest, dynamic := 15*time.Second, true
	included := container.MetricSet{
		container.MemoryUsageMetrics: struct{}{},
		container.OOMMetrics:         struct{}{},
		container.PressureMetrics:    struct{}{},
	}
	m, err := manager.New(
		memory.New(2*time.Minute, nil), sysfs.NewRealSysFs(),
		manager.HousekeepingConfig{Interval: &longest, AllowDynamic: &dynamic},
		included, http.DefaultClient, []string{"/"}, nil, "", 0,
	)
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Start(); err != nil {
		log.Fatal(err)
	}
	everything := v2.RequestOptions{IdType: v2.TypeName, Count: 1, Recursive: true}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewPrometheusCollector(m, nil, included, clock.RealClock{}, everything))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
