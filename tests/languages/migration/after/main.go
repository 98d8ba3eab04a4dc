package main

import (
	"context"
	"log"
	"os"

	"example.com/leasehold"
	"migration/work"
)

func main() {
	ctx := context.Background()
	// http://leasehold.redis-sentinel.svc:8080, and a token if the server wants one
	locks := leasehold.Locks{URL: os.Getenv("LOCK_URL"), Token: os.Getenv("LOCK_TOKEN")}
	lease, err := locks.Acquire(ctx, "report", leasehold.Request{
		TTLMs:    10_000,
		WaitMs:   30_000,
		Metadata: map[string]string{"run": "nightly"},
	})
	if problem, held := leasehold.Refused(err, 423); held {
		log.Fatalf("another client has it for %d ms", problem.ExpiresInMs)
	} else if err != nil {
		log.Fatal(err)
	}

	kept, stop := lease.Keep(ctx)
	failure := work.Do(kept, lease.FencingToken)
	stop()
	if err := lease.Release(ctx); err != nil {
		log.Print(err) // 409: the lease was lost during the work
	}
	if failure != nil {
		log.Fatal(failure)
	}
}
