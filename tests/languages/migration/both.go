package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
)

// Both locks for a while, as the README says: the old one first, then the lease, and let go in reverse.
func main() {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{
		Addr:     "redis-sentinel-master.redis-sentinel.svc.cluster.local:6379",
		Password: os.Getenv("REDIS_PASSWORD"),
	})
	wait, end := context.WithTimeout(ctx, 30*time.Second)
	defer end()
	lock, err := redislock.Obtain(wait, client, "report", 30*time.Second, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(20 * time.Millisecond),
	})
	if err != nil {
		log.Fatal(err)
	}
	locks := Locks{URL: "http://leasehold.redis-sentinel.svc:8080", Token: os.Getenv("LOCK_TOKEN")}
	lease, err := locks.Acquire(ctx, "report", Request{TTLMs: 30_000, WaitMs: 20_000})
	if err != nil {
		log.Fatal(err)
	}
	failure := work(ctx, lease.FencingToken)
	if err := lease.Release(ctx); err != nil {
		log.Fatal(err)
	}
	if err := lock.Release(ctx); err != nil {
		log.Fatal(err)
	}
	if failure != nil {
		log.Fatal(failure)
	}
}
