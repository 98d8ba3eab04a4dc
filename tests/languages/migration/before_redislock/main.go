package main

import (
	"context"
	"errors"
	"log"
	"os"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"migration/work"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := redis.NewClient(&redis.Options{
		// redis-sentinel-master.redis-sentinel.svc.cluster.local:6379
		Addr:     os.Getenv("REDIS_ADDR"),
		Password: os.Getenv("REDIS_PASSWORD"), // Secret redis-sentinel, key redis-password
	})
	wait, end := context.WithTimeout(ctx, 30*time.Second)
	lock, err := redislock.Obtain(wait, client, "report", 10*time.Second, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(20 * time.Millisecond),
		Metadata:      "nightly",
	})
	end()
	if errors.Is(err, redislock.ErrNotObtained) || errors.Is(err, context.DeadlineExceeded) {
		log.Fatal("another client has it")
	} else if err != nil {
		log.Fatal(err)
	}

	kept, stop := context.WithCancel(ctx)
	go func() {
		defer stop()
		for {
			select {
			case <-kept.Done():
				return
			case <-time.After(3 * time.Second):
				if err := lock.Refresh(kept, 10*time.Second, nil); err != nil {
					return
				}
			}
		}
	}()
	failure := work.Do(kept)
	stop()
	if err := lock.Release(ctx); errors.Is(err, redislock.ErrLockNotHeld) {
		log.Fatal("the lock was lost during the work")
	} else if err != nil {
		log.Fatal(err)
	}
	if failure != nil {
		log.Fatal(failure)
	}
}
