// Reads dashboards by Grafana's own schema, strictly: fields that are missing, unknown or of another type are told.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins() // the panels' and the data sources' own options
	wrong := false
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			fmt.Printf("%s: %v\n", path, err)
			wrong = true
		}
	}
	if wrong {
		os.Exit(1)
	}
}

func check(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var read dashboard.Dashboard
	var found cog.BuildErrors
	// An empty list of errors comes as an error, too.
	if err := read.UnmarshalJSONStrict(text); err != nil && !(errors.As(err, &found) && len(found) == 0) {
		return err
	}
	return read.Validate()
}
