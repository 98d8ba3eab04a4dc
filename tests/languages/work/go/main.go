// Works under a lease: work KEY SECONDS FILE [WORKERS]. The workers write to the file what they do, and when.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"example.com/leasehold"
)

var locks = leasehold.New()

func write(word string, lease *leasehold.Lease, at int64) {
	file, err := os.OpenFile(os.Args[3], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(file, "%s %d %d\n", word, lease.FencingToken, at)
		file.Close()
	}
	if err != nil {
		panic(err)
	}
}

// seconds is the duration that an environment variable or an argument names.
func seconds(text string, otherwise time.Duration) time.Duration {
	if value, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Duration(value * float64(time.Second))
	}
	return otherwise
}

func work() error {
	options := leasehold.Options{
		TTL:     seconds(os.Getenv("WORK_TTL"), 3*time.Second),
		Wait:    seconds(os.Getenv("WORK_WAIT"), 0),
		MaxHold: seconds(os.Getenv("WORK_MAX_HOLD"), 0),
		Fields:  map[string]any{"holder": "go"},
	}
	if os.Getenv("WORK_WAIT") == "0" {
		options.Wait = leasehold.NoWait
	}
	lease, err := locks.Acquire(context.Background(), os.Args[1], options)
	if err != nil {
		return err
	}
	write("begin", lease, time.Now().UnixMilli())
	go func() {
		<-lease.Context().Done()
		if errors.Is(lease.Check(), leasehold.ErrLost) {
			write("signal", lease, time.Now().UnixMilli())
		}
	}()
	for end := time.Now().Add(seconds(os.Args[2], 0)); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		at := time.Now().UnixMilli()
		if lease.Check() != nil {
			return lease.Release()
		}
		write("beat", lease, at)
	}
	write("end", lease, time.Now().UnixMilli())
	if err := lease.Release(); err != nil {
		return err
	}
	fmt.Println("released")
	return nil
}

func main() {
	workers, failed := 1, atomic.Bool{}
	if len(os.Args) > 4 {
		workers, _ = strconv.Atoi(os.Args[4])
	}
	var group sync.WaitGroup
	for ; workers > 0; workers-- {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := work(); err != nil {
				fmt.Fprintf(os.Stderr, "%T: %v\n", err, err)
				failed.Store(true)
			}
		}()
	}
	group.Wait()
	if failed.Load() {
		os.Exit(1)
	}
}
