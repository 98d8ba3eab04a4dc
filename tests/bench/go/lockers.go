package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
)

// web has a connection for each worker.
func web(workers int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers, DisableCompression: true}}
}

// call sends a request and decodes the body of its answer.
func call(client *http.Client, request *http.Request, answer any) (int, error) {
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && answer != nil {
		err = json.Unmarshal(body, answer)
	}
	return response.StatusCode, err
}

// leasehold spreads the workers over its servers.
type leasehold struct {
	addresses []string
	client    *http.Client
}

func newLeasehold(addresses []string, workers int) locker {
	return &leasehold{addresses, web(workers)}
}

func (l *leasehold) acquire(ctx context.Context, worker int, key string) (func() error, error) {
	url := "http://" + l.addresses[worker%len(l.addresses)] + "/locks/" + key
	asked := fmt.Sprintf(`{"ttl_ms":%d,"wait_ms":30000}`, ttl.Milliseconds())
	var lease struct {
		LeaseID string `json:"lease_id"`
	}
	request, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader([]byte(asked)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	status, err := call(l.client, request, &lease)
	if err != nil || status != http.StatusCreated {
		return nil, fmt.Errorf("status %d: %w", status, err)
	}
	return func() error {
		request, err := http.NewRequestWithContext(ctx, "DELETE", url, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Lease-Id", lease.LeaseID)
		status, err := call(l.client, request, nil)
		if err != nil || status != http.StatusNoContent {
			return fmt.Errorf("status %d: %w", status, err)
		}
		return nil
	}, nil
}

type polling struct {
	client *redislock.Client
	every  time.Duration
}

func newRedislock(address string, workers int, every time.Duration) locker {
	return &polling{redislock.New(redis.NewClient(&redis.Options{Addr: address, PoolSize: workers})), every}
}

func (p *polling) acquire(ctx context.Context, _ int, key string) (func() error, error) {
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	options := &redislock.Options{RetryStrategy: redislock.LinearBackoff(p.every)}
	lock, err := p.client.Obtain(wait, key, ttl, options)
	if err != nil {
		return nil, err
	}
	return func() error { return lock.Release(ctx) }, nil
}

// etcd has one lease for each worker, as a session of its own client would.
type etcd struct {
	base   string
	client *http.Client
	leases []string
}

func newEtcd(address string, workers int) locker {
	e := &etcd{base: "http://" + address + "/v3/", client: web(workers)}
	for worker := 0; worker < workers; worker++ {
		var lease struct{ ID string }
		if err := e.post(context.Background(), "lease/grant", map[string]string{"TTL": "120"}, &lease); err != nil {
			panic("lease/grant: " + err.Error())
		}
		e.leases = append(e.leases, lease.ID)
	}
	return e
}

func (e *etcd) post(ctx context.Context, path string, asked map[string]string, answer any) error {
	body, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, "POST", e.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	status, err := call(e.client, request, answer)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %s", strconv.Itoa(status))
	}
	return err
}

func (e *etcd) acquire(ctx context.Context, worker int, key string) (func() error, error) {
	// The gateway takes and gives bytes as base64, which `[]byte` is in JSON.
	name, err := json.Marshal([]byte(key))
	if err != nil {
		return nil, err
	}
	var held struct{ Key string }
	asked := map[string]string{"name": string(bytes.Trim(name, `"`)), "lease": e.leases[worker]}
	if err := e.post(ctx, "lock/lock", asked, &held); err != nil {
		return nil, err
	}
	return func() error { return e.post(ctx, "lock/unlock", map[string]string{"key": held.Key}, nil) }, nil
}
