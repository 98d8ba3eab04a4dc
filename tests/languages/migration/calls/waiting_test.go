package calls

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"

	"migration/plain"
)

func TestWaiterGetsTheLockWhenItIsFree(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	lock := obtain(t, b, ttl)
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
	time.AfterFunc(300*time.Millisecond, func() {
		client.Del(ctx, a)
		_ = lock.Release(ctx)
		_ = lease.Release(ctx)
	})
	begun := time.Now()
	var all sync.WaitGroup
	waiter := func(wait func() error) {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := wait(); err != nil {
				t.Error(err)
			}
			if waited := time.Since(begun); waited < 200*time.Millisecond || waited > 5*time.Second {
				t.Error("it waited", waited)
			}
		}()
	}
	waiter(func() error {
		for {
			if ok, err := client.SetNX(ctx, a, "value", ttl).Result(); ok || err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	waiter(func() error {
		retry := redislock.LinearBackoff(10 * time.Millisecond)
		_, err := redislock.Obtain(ctx, client, b, ttl, &redislock.Options{RetryStrategy: retry})
		return err
	})
	waiter(func() error {
		next, err := locks.Acquire(ctx, c, plain.Request{TTLMs: ttlMs, WaitMs: 5000})
		if err == nil && time.Until(next.Until()) < ttl-2*time.Second {
			return fmt.Errorf("the wait was taken off the lease: %v are left", time.Until(next.Until()))
		}
		return err
	})
	all.Wait()
}

func TestWaitingInVain(t *testing.T) {
	t.Parallel()
	_, b, c := keys(t)
	obtain(t, b, ttl)
	retry := redislock.LimitRetry(redislock.LinearBackoff(10*time.Millisecond), 20)
	_, err := redislock.Obtain(ctx, client, b, ttl, &redislock.Options{RetryStrategy: retry})
	check(t, errors.Is(err, redislock.ErrNotObtained), err)
	acquire(t, c, plain.Request{TTLMs: ttlMs})
	begun := time.Now()
	_, err = locks.Acquire(ctx, c, plain.Request{WaitMs: 200})
	problem(t, err, 423, "wait-timeout")
	between(t, time.Since(begun), 200*time.Millisecond, 2*time.Second)
}

func TestWaitersAreServedInOrder(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
	order := make(chan int, 8)
	for waiter := 0; waiter < cap(order); waiter++ {
		waiter := waiter
		go func() {
			next, err := locks.Acquire(ctx, c, plain.Request{TTLMs: ttlMs, WaitMs: 20_000})
			if err != nil {
				t.Error(err)
				order <- -1
				return
			}
			order <- waiter
			_ = next.Release(ctx)
		}()
		untilWaiting(t, c, waiter+1)
	}
	must(t, lease.Release(ctx))
	for waiter := 0; waiter < cap(order); waiter++ {
		got := <-order
		check(t, got == waiter, got, "came before", waiter)
	}
}

func TestPlaceIsKeptForTheNextRequest(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
	header := http.Header{"Idempotency-Key": {"place-0123456789abcdef"}}
	code, body := call(t, "POST", "/locks/"+c, locks.Token, header, `{"wait_ms": 200}`)
	check(t, code == 423 && body["position"] == float64(1), code, body)
	next := make(chan error, 1)
	go func() {
		_, err := locks.Acquire(ctx, c, plain.Request{WaitMs: 8000})
		next <- err
	}()
	// A kept place counts.
	untilWaiting(t, c, 2)
	code, body = call(t, "POST", "/locks/"+c, locks.Token, header, `{"wait_ms": 200}`)
	check(t, code == 423 && body["position"] == float64(1), code, body)
	must(t, lease.Release(ctx))
	must(t, <-next)
}
