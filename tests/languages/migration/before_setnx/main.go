package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"migration/work"
)

func main() {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{
		// redis-sentinel-master.redis-sentinel.svc.cluster.local:6379
		Addr:     os.Getenv("REDIS_ADDR"),
		Password: os.Getenv("REDIS_PASSWORD"), // Secret redis-sentinel, key redis-password
	})
	for {
		ok, err := client.SetNX(ctx, "report", "nightly", 10*time.Second).Result()
		if err != nil {
			log.Fatal(err)
		}
		if ok {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	failure := work.Do(ctx)
	if err := client.Del(ctx, "report").Err(); err != nil {
		log.Fatal(err)
	}
	if failure != nil {
		log.Fatal(failure)
	}
}
