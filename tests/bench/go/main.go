// Workers that acquire and release locks as a Go program does: through Leasehold, with bsm/redislock straight on Redis, or
// through etcd's JSON gateway. Prints one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"
)

const ttl = 10 * time.Second

// A locker acquires a lock for one worker, however long that takes, and returns how to release it.
type locker interface {
	acquire(ctx context.Context, worker int, key string) (release func() error, err error)
}

type result struct {
	cycles int
	waited time.Duration
	// The longest wait of one cycle.
	longest time.Duration
}

func main() {
	with := flag.String("with", "", "leasehold, redislock or etcd")
	at := flag.String("at", "", "addresses, such as 127.0.0.1:6379; several are separated by commas")
	workers := flag.Int("workers", 64, "how many work at once")
	seconds := flag.Float64("seconds", 1, "for how long they begin cycles")
	shared := flag.Bool("shared", false, "all want the same lock, and not one each")
	hold := flag.Duration("hold", 0, "how long each holds the lock")
	poll := flag.Duration("poll", 20*time.Millisecond, "how often redislock tries again")
	flag.Parse()

	var lock locker
	addresses := strings.Split(*at, ",")
	switch *with {
	case "leasehold":
		lock = newLeasehold(addresses, *workers)
	case "redislock":
		lock = newRedislock(addresses[0], *workers, *poll)
	case "etcd":
		lock = newEtcd(addresses[0], *workers)
	default:
		log.Fatalf("-with=%s is unknown", *with)
	}
	run := func(time time.Duration, name string) (result, float64) {
		return work(lock, *workers, time, *hold, func(worker int) string {
			if *shared {
				return name
			}
			return fmt.Sprintf("%s-%d", name, worker)
		})
	}
	// Connections open before the measurement.
	run(200*time.Millisecond, "before")
	sum, took := run(time.Duration(*seconds*float64(time.Second)), "lock")
	mean := sum.waited.Seconds() / float64(sum.cycles)
	json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"per_second": float64(sum.cycles) / took, "longest_to_mean": sum.longest.Seconds() / mean, "mean_ms": mean * 1000,
	})
}

// work lets the workers do cycles, and waits until all have ended their last one.
func work(lock locker, workers int, duration, hold time.Duration, key func(int) string) (result, float64) {
	var sum result
	var guard sync.Mutex
	var group sync.WaitGroup
	ctx := context.Background()
	begun := time.Now()
	for worker := 0; worker < workers; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			var own result
			for time.Since(begun) < duration {
				asked := time.Now()
				release, err := lock.acquire(ctx, worker, key(worker))
				if err != nil {
					log.Fatalf("acquire: %v", err)
				}
				waited := time.Since(asked)
				if hold > 0 {
					time.Sleep(hold)
				}
				if err := release(); err != nil {
					log.Fatalf("release: %v", err)
				}
				own.cycles++
				own.waited += waited
				if waited > own.longest {
					own.longest = waited
				}
			}
			guard.Lock()
			defer guard.Unlock()
			sum.cycles += own.cycles
			sum.waited += own.waited
			if own.longest > sum.longest {
				sum.longest = own.longest
			}
		}(worker)
	}
	group.Wait()
	return sum, time.Since(begun).Seconds()
}
