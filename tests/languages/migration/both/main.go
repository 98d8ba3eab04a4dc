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
	options := leasehold.Options{TTL: 10 * time.Second, Wait: 30 * time.Second}
	lease, failure := leasehold.New().Acquire(kept, "report", options)
	if failure == nil {
		failure = work.Do(lease.Context(), lease.FencingToken) // the context ends when one of the two is lost
		if err := lease.Release(); err != nil {
			log.Print(err) // the lease was lost during the work
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
