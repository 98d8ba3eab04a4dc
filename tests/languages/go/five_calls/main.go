package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"example.com/leasehold"
)

func main() {
	key, url := "reports/nightly", "http://127.0.0.1:8080"
	if len(os.Args) > 1 {
		key = os.Args[1]
	}
	if value, ok := os.LookupEnv("LOCK_URL"); ok {
		url = value
	}
	ctx := context.Background()
	locks := leasehold.Locks{URL: url, Token: os.Getenv("LOCK_TOKEN")}

	lease, err := locks.Acquire(ctx, key, leasehold.Request{TTLMs: 6000, WaitMs: 10_000, Holder: "go"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("acquired with token %d, mine for %d ms\n", lease.FencingToken, time.Until(lease.Until()).Milliseconds())

	_, err = locks.Acquire(ctx, key, leasehold.Request{})
	if problem, held := leasehold.Refused(err, 423); held {
		fmt.Printf("423 lock-held: %s has it for %d ms\n", problem.Holder, problem.ExpiresInMs)
	}

	kept, stop := lease.Keep(ctx)
	select {
	case <-time.After(7 * time.Second): // the work: it takes longer than the TTL
	case <-kept.Done(): // work that is given this context breaks off
		log.Fatal("the lease was lost during the work")
	}
	stop()

	if err := lease.Renew(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("renewed, mine for %d ms\n", time.Until(lease.Until()).Milliseconds())

	if err := lease.Release(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("released")

	if problem, lost := leasehold.Refused(lease.Renew(ctx), 409); lost {
		fmt.Printf("409 lease-lost: %s\n", problem.Reason) // a lease that is over does not come back: stop the work
	}
}
