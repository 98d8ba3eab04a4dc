// The calls that every generated client must make: here with openapi-generator's for Go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	leasehold "example.com/leasehold/client"
)

const key = "clients/go"

func main() {
	if err := calls(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("go: acquired, held, renewed, released, lost")
}

func calls(server, token string) error {
	configuration := leasehold.NewConfiguration()
	configuration.Servers = leasehold.ServerConfigurations{{URL: server}}
	locks := leasehold.NewAPIClient(configuration).LocksAPI
	ctx := context.WithValue(context.Background(), leasehold.ContextAccessToken, token)

	wanted := *leasehold.NewAcquireBody()
	wanted.SetTtlMs(30_000)
	wanted.SetHolder("first")
	wanted.SetMetadata(map[string]string{"job": "42"})
	lease, answer, err := locks.Acquire(ctx, key).AcquireBody(wanted).Execute()
	if err != nil {
		return err
	}
	if answer.StatusCode != 201 || lease.Key != key || lease.GetHolder() != "first" || lease.Metadata["job"] != "42" ||
		lease.FencingToken < 1 || lease.ExpiresInMs < 1 || lease.ExpiresInMs > 30_000 || lease.AcquiredAt.IsZero() {
		return fmt.Errorf("acquired: %d %+v", answer.StatusCode, lease)
	}

	// This generator sends `null` for a body that is left out, which the service refuses.
	_, answer, err = locks.Acquire(ctx, key).AcquireBody(leasehold.AcquireBody{}).Execute()
	held, err := problem(err)
	if err != nil {
		return err
	}
	if answer.StatusCode != 423 || held.Type != "urn:leasehold:problem:lock-held" || held.GetHolder() != "first" ||
		held.GetFencingToken() != lease.FencingToken || held.HeldForMs == nil || held.Waiters == nil || *held.Waiters != 0 ||
		held.GetExpiresInMs() < 1 || held.GetExpiresInMs() > 30_000 {
		return fmt.Errorf("held: %d %+v", answer.StatusCode, held)
	}

	longer := *leasehold.NewRenewBody()
	longer.SetTtlMs(60_000)
	renewed, _, err := locks.Renew(ctx, key).LeaseId(lease.LeaseId).RenewBody(longer).Execute()
	if err != nil {
		return err
	}
	if renewed.FencingToken != lease.FencingToken || renewed.ExpiresInMs <= 30_000 {
		return fmt.Errorf("renewed: %+v", renewed)
	}

	if answer, err = locks.Release(ctx, key).LeaseId(lease.LeaseId).Execute(); err != nil || answer.StatusCode != 204 {
		return fmt.Errorf("released: %v %w", answer, err)
	}

	_, answer, err = locks.Renew(ctx, key).LeaseId(lease.LeaseId).RenewBody(leasehold.RenewBody{}).Execute()
	lost, err := problem(err)
	if err != nil {
		return err
	}
	if answer.StatusCode != 409 || lost.Type != "urn:leasehold:problem:lease-lost" || lost.GetReason() != "not_held" {
		return fmt.Errorf("lost: %d %+v", answer.StatusCode, lost)
	}
	return nil
}

// The problem that a refusal carries.
func problem(err error) (leasehold.Problem, error) {
	var refusal *leasehold.GenericOpenAPIError
	if errors.As(err, &refusal) {
		if problem, ok := refusal.Model().(leasehold.Problem); ok {
			return problem, nil
		}
	}
	return leasehold.Problem{}, fmt.Errorf("no problem, but %w", err)
}
