package main

import (
	"context"
	"errors"
	"log"
	"time"

	"example.com/leasehold"
	"migration/work"
)

func main() {
	options := leasehold.Options{
		TTL:    10 * time.Second,
		Wait:   30 * time.Second,
		Fields: map[string]any{"metadata": map[string]string{"run": "nightly"}},
	}
	// LEASEHOLD_SERVER is http://leasehold.redis-sentinel.svc:8080, and LEASEHOLD_TOKEN a token if the server wants one.
	lease, err := leasehold.New().Acquire(context.Background(), "report", options)
	var refused *leasehold.Refused
	if errors.As(err, &refused) && refused.Status == 423 {
		log.Fatalf("another client has it for %v ms", refused.Problem["expires_in_ms"])
	} else if err != nil {
		log.Fatal(err)
	}

	failure := work.Do(lease.Context(), lease.FencingToken)
	if err := lease.Release(); err != nil {
		log.Print(err) // the lease was lost during the work
	}
	if failure != nil {
		log.Fatal(failure)
	}
}
