// This program takes the old lock and the lease, for the time in which old and new programs run together: the old lock first,
// then the lease. It frees them in reverse.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"example.com/leasehold"
	"migration/work"
)

func main() {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{
		Addr:     os.Getenv("REDIS_ADDR"),
		Password: os.Getenv("REDIS_PASSWORD"),
	})
	wait, end := context.WithTimeout(ctx, 30*time.Second)
	lock, err := redislock.Obtain(wait, client, "report", 10*time.Second, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(20 * time.Millisecond),
	})
	end()
	if err != nil {
		log.Fatal(err)
	}
	kept, stop := refresh(ctx, lock) // also while it waits for the lease
	locks := leasehold.Locks{URL: os.Getenv("LOCK_URL"), Token: os.Getenv("LOCK_TOKEN")}
	lease, failure := locks.Acquire(kept, "report", leasehold.Request{TTLMs: 10_000, WaitMs: 30_000})
	if failure == nil {
		both, stopLease := lease.Keep(kept) // ends when one of the two is lost
		failure = work.Do(both, lease.FencingToken)
		stopLease()
		if err := lease.Release(ctx); err != nil {
			log.Print(err) // 409: the lease was lost during the work
		}
	}
	stop()
	if err := lock.Release(ctx); err != nil {
		log.Print(err)
	}
	if failure != nil {
		log.Fatal(failure)
	}
}

// refresh renews the old lock in the background. The context that it returns ends when a renewal fails.
func refresh(ctx context.Context, lock *redislock.Lock) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	go func() {
		defer stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(3 * time.Second):
				if lock.Refresh(ctx, 10*time.Second, nil) != nil {
					return
				}
			}
		}
	}()
	return ctx, stop
}
